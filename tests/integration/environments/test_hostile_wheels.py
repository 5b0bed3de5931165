"""Wheels that want more than to be unpacked: with the real fetcher, from an index of the tests' own."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.package_index import PackageIndex, wheel

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed
from cellyard_controller.ids import TenantName
from cellyard_controller.runtimes import Template
from cellyard_controller.runtimes.fake import FakeRuntime

MIB = 1024 * 1024
WHEEL = "evil-1.0-py3-none-any.whl"
Make = Callable[..., Any]


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    yield index
    index.close()


@pytest.fixture
def make(folder: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Make:
    folder.chmod(0o711)
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    async def make(**settings: Any) -> Path:
        """The folder that a sandbox would mount; what is left beside it is looked at first."""
        config = EnvironmentsConfig(index=index.url, **settings)
        environments = Environments(config, folder / "environments", Workshop(folder / "build", "controller"))
        definition = read_list(["evil"], "", Bounds(100_000, 100))
        held = environments.held(
            TenantName("mine"), definition, FakeRuntime(), Template("default", ""), lambda stage, message: None
        )
        try:
            async with held as key:
                site = environments.site(key)
                assert site is not None
                return site
        finally:
            assert list(scratch.iterdir()) == []
            assert list((folder / "environments").glob("*/.part-*")) == []

    return make


def with_links(**links: str) -> bytes:
    """A wheel some of whose members are symbolic links."""
    packed = io.BytesIO(wheel("evil", "1.0", {"evil.py": ""}))
    with zipfile.ZipFile(packed, "a") as archive:
        for name, target in links.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, target)
    return packed.getvalue()


def that_lies(content: bytes, *, says: int) -> bytes:
    """A wheel that says of its largest member that it is small."""
    packed = bytearray(wheel("evil", "1.0", {"evil.py": "", "evil.bin": content.decode()}))
    true = struct.pack("<I", len(content))
    at = 0
    while (at := packed.find(true, at)) >= 0:
        packed[at : at + 4] = struct.pack("<I", says)
        at += 4
    return bytes(packed)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../etc/passwd", "evil.py", "."])
async def test_links_lead_nowhere(target: str, make: Make, index: PackageIndex) -> None:
    index.add_file("evil", WHEEL, with_links(link=target, folder="/etc"))
    site = await make()
    assert not [path for path in site.rglob("*") if path.is_symlink()]
    assert (site / "link").read_text() == target
    assert (site / "folder").read_text() == "/etc"


async def test_a_small_archive_of_much_is_cut(make: Make, index: PackageIndex) -> None:
    content = wheel("evil", "1.0", {"evil.bin": "0" * (64 * MIB)})
    assert len(content) < MIB
    index.add_file("evil", WHEEL, content)
    with pytest.raises(EnvironmentFailed, match="'evil' cannot be had"):
        await make(size=2 * MIB)


async def test_an_archive_that_lies_about_how_much_it_is_is_refused(make: Make, index: PackageIndex) -> None:
    index.add_file("evil", WHEEL, that_lies(b"0" * (64 * MIB), says=10))
    with pytest.raises(EnvironmentFailed, match="'evil' cannot be had"):
        await make(size=2 * MIB)


async def test_many_empty_files_are_not_for_nothing(make: Make, index: PackageIndex) -> None:
    index.add("evil", "1.0", {f"evil/{number}.txt": "" for number in range(3000)})
    with pytest.raises(EnvironmentFailed, match=r"'evil' cannot be had: its packages take more than 8.0 MiB"):
        await make(size=8 * MIB)


@pytest.mark.parametrize(
    "record",
    [{}, {"../../../../etc/passwd": ""}, {"/etc/passwd": "", "other.py": ""}, {"evil.py": "other content"}],
    ids=["of nothing", "that climbs", "of others' files", "of other content"],
)
async def test_a_record_is_not_believed(record: dict[str, str], make: Make, index: PackageIndex) -> None:
    index.add_file("evil", WHEEL, wheel("evil", "1.0", {"evil.py": "x = 1\n"}, record=record))
    site = await make()
    kept = (site / "evil-1.0.dist-info" / "RECORD").read_text().splitlines()
    about = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.suffix != ".pyc" and path.is_file()}
    assert {line.partition(",")[0] for line in kept} == about
    assert (site / "evil.py").read_text() == "x = 1\n"


BAD_METADATA = {
    "another name": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n",
    "another version": "Metadata-Version: 2.1\nName: evil\nVersion: 9.0\n",
    "none": "",
    "no text": "\udcff",
    "a requirement that leads out": "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\nRequires-Dist: x @ file:///etc\n",
}


@pytest.mark.parametrize("what", BAD_METADATA)
async def test_what_its_metadata_says_wrong_is_refused(what: str, make: Make, index: PackageIndex) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("evil.py", "")
        text = BAD_METADATA[what].encode(errors="surrogateescape")
        archive.writestr("evil-1.0.dist-info/METADATA", text)
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    index.add_file("evil", WHEEL, packed.getvalue())
    with pytest.raises(EnvironmentFailed, match="'evil' cannot be had"):
        await make()


async def test_what_is_read_late_differs_from_what_was_promised(make: Make, index: PackageIndex) -> None:
    """An archive that is cut off, as by an index that fails."""
    index.add_file("evil", WHEEL, wheel("evil", "1.0", {"evil.bin": "0123456789" * 1000})[:-200])
    with pytest.raises(EnvironmentFailed, match="'evil' cannot be had"):
        await make()
