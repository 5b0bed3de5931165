"""Environments made with the real fetcher from an index of the tests' own; what needs an image runs on this machine."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.package_index import PackageIndex

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.apart import FETCH_UID
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.environments.shelf import EnvironmentKey
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed
from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.runtimes import Template
from cellyard_controller.runtimes.fake import FakeRuntime

MINE, THEIRS = TenantName("mine"), TenantName("../theirs")
TEMPLATE = Template("default", "")


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    yield index
    index.close()


class Yard:
    """What makes environments, on a data folder of its own."""

    def __init__(self, folder: Path, index: PackageIndex, scratch: Path, **settings: Any) -> None:
        self.folder, self.runtime, self.scratch = folder / "environments", FakeRuntime(), scratch
        config = EnvironmentsConfig(index=index.url, **settings)
        self.environments = Environments(config, self.folder, Workshop(folder / "build", "controller"))
        self.told: list[str] = []

    async def make(self, *requirements: str, tenant: TenantName = MINE, python: str = "") -> Path:
        """The folder that a sandbox would mount."""
        async with self.hold(*requirements, tenant=tenant, python=python) as key:
            site = self.environments.site(key)
            assert site is not None
            return site

    def hold(self, *requirements: str, tenant: TenantName = MINE, python: str = "") -> Any:
        definition = read_list(requirements, python, Bounds(100_000, 100))
        report = lambda stage, message: self.told.append(message)  # noqa: E731
        return self.environments.held(tenant, definition, self.runtime, TEMPLATE, report)

    def left(self) -> list[str]:
        """What is there beside whole environments."""
        parts = [str(each) for each in self.folder.glob("*/.part-*")]
        return parts + [str(each) for each in self.scratch.iterdir()] + [str(each) for each in self.build()]

    def build(self) -> list[Path]:
        build = self.folder.parent / "build"
        return list(build.iterdir()) if build.is_dir() else []


@pytest.fixture
def make_yard(folder: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Yard]:
    folder.chmod(0o711)
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return lambda **settings: Yard(folder, index, scratch, **settings)


@pytest.fixture
def yard(make_yard: Callable[..., Yard]) -> Yard:
    return make_yard()


async def test_what_was_asked_for_and_what_that_needs_is_there_read_only(yard: Yard, index: PackageIndex) -> None:
    index.add("tiny", "1.0", {"tiny/__init__.py": "ANSWER = 42\n"}, requires=["needed>=1"])
    index.add("needed", "1.5")
    site = await yard.make("tiny")
    names = sorted(each.name for each in site.iterdir())
    assert names == ["__pycache__", "needed-1.5.dist-info", "needed.py", "tiny", "tiny-1.0.dist-info"]
    assert [each.suffix for each in (site / "tiny" / "__pycache__").iterdir()] == [".pyc"]
    for path in (site, *site.rglob("*")):
        assert not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        assert path.stat().st_uid == os.geteuid()
    assert yard.told[:2] == ["looking for the environment", "choosing packages"]
    assert yard.told[-1] == "compiling and checking"
    assert yard.left() == []


async def test_the_second_request_finds_it_however_it_is_spelled(yard: Yard, index: PackageIndex) -> None:
    index.add("tiny", "1.0")
    index.add("other", "1.0")
    first = await yard.make("Tiny >= 1", "other")
    asked = len(index.asked)
    assert await yard.make("OTHER", "other", "tiny>=1; os_name=='posix'") == first
    assert len(index.asked) == asked


async def test_those_who_ask_at_once_have_it_made_once_and_all_hear_how_it_goes(
    yard: Yard, index: PackageIndex
) -> None:
    index.add("tiny", "1.0")
    sites = await asyncio.gather(*(yard.make("tiny") for _ in range(5)))
    assert len(set(sites)) == 1
    assert yard.told.count("compiling and checking") == 5
    assert index.fetched("tiny/") == 1


async def test_tenants_share_nothing(yard: Yard, index: PackageIndex) -> None:
    index.add("tiny", "1.0")
    mine, theirs = await yard.make("tiny"), await yard.make("tiny", tenant=THEIRS)
    assert mine != theirs
    assert theirs.is_relative_to(yard.folder)
    assert mine.parent.name == theirs.parent.name


async def test_what_does_not_exist_is_named_and_tried_again_at_the_next_request(
    yard: Yard, index: PackageIndex
) -> None:
    index.add("tiny", "1.0")
    with pytest.raises(
        EnvironmentFailed, match=r"^the requirement 'absent>=2' cannot be had: absent was not"
    ) as failed:
        await yard.make("tiny", "absent>=2")
    assert failed.value.details["requirement"] == "absent>=2"
    assert "No solution" in failed.value.details["log"]
    assert index.url not in failed.value.details["log"]
    assert yard.left() == []
    index.add("absent", "2.1")
    assert (await yard.make("tiny", "absent>=2") / "absent.py").is_file()


def _archive(*members: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in members:
            archive.writestr(name, "x")
    return packed.getvalue()


BAD = {
    "an old version only": (("tiny>2",), r"'tiny>2' cannot be had: only tiny==1.0 is available"),
    "a conflict": (("tiny==1.0", "wants-new"), r"tiny"),
    "no archive": (("broken",), r"'broken' cannot be had: .*invalid package format"),
    "an archive that is no wheel": (("empty",), r"'empty' cannot be had"),
    "another platform's": (("foreign",), r"'foreign' cannot be had: .*no wheels"),
    "sources alone": (("sources",), r"^the requirement 'sources' cannot be had: its sources cannot be read: ReadError"),
    "a URL behind it": (("leads-out",), r"'leads-out' cannot be had"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_be_had_is_told_with_its_reason_and_leaves_nothing(
    what: str, yard: Yard, index: PackageIndex
) -> None:
    index.add("tiny", "1.0")
    index.add("wants_new", "1.0", requires=["tiny>=2"])
    index.add_file("broken", "broken-1.0-py3-none-any.whl", b"no archive")
    index.add_file("empty", "empty-1.0-py3-none-any.whl", _archive("empty.py"))
    index.add_file("foreign", "foreign-1.0-cp311-cp311-win_amd64.whl", b"")
    index.add_file("sources", "sources-1.0.tar.gz", b"")
    index.add("leads_out", "1.0", requires=["evil @ file:///etc/passwd"])
    requirements, said = BAD[what]
    with pytest.raises(EnvironmentFailed, match=said):
        await yard.make(*requirements)
    assert yard.left() == []
    assert list(yard.folder.glob("*/*")) == []


async def test_another_python_than_the_images_is_refused(yard: Yard) -> None:
    with pytest.raises(EnvironmentFailed, match=r"requires-python is >=4"):
        await yard.make("tiny", python=">=4")


@pytest.mark.parametrize("member", ["../evil.py", "/tmp/evil.py", "tiny/../../evil.py"])
async def test_a_wheel_puts_nothing_anywhere_else(member: str, yard: Yard, index: PackageIndex) -> None:
    index.add("tiny", "1.0", {"tiny.py": "", member: "import os\n"})
    try:
        site = await yard.make("tiny")
    except EnvironmentFailed:
        pass
    else:
        assert all(each.resolve().is_relative_to(site) for each in site.rglob("*"))
    assert not list(yard.folder.parent.rglob("evil.py")) or all(
        each.is_relative_to(yard.folder) for each in yard.folder.parent.rglob("evil.py")
    )
    assert "evil.py" not in os.listdir("/tmp")


async def test_an_index_that_hangs_is_cut(make_yard: Callable[..., Yard], index: PackageIndex) -> None:
    yard = make_yard(fetch_timeout=1.0)
    index.open.clear()
    with pytest.raises(EnvironmentFailed, match="fetching took longer than 1 s"):
        await yard.make("tiny")
    assert yard.left() == []


async def test_what_would_fill_the_disk_is_cut(make_yard: Callable[..., Yard], index: PackageIndex) -> None:
    yard = make_yard(size=1024 * 1024)
    for number in range(8):
        index.add(f"part{number}", "1.0", {f"part{number}.txt": "0" * 400_000}, requires=["tiny"])
    index.add("bomb", "1.0", {"bomb.txt": "0" * 8_000_000})
    index.add("tiny", "1.0")
    with pytest.raises(EnvironmentFailed):
        await yard.make("bomb")
    with pytest.raises(EnvironmentFailed, match=r"1.0 MiB"):
        await yard.make(*(f"part{number}" for number in range(8)))
    assert yard.left() == []


def _children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _fetchers() -> list[int]:
    return [pid for pid in _children() if b"install" in _of(pid, "cmdline")]


def _of(pid: int, name: str) -> bytes:
    """What /proc says of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


async def _reached(index: PackageIndex) -> None:
    assert await asyncio.to_thread(index.reached.wait, 60)


async def test_the_fetcher_has_no_rights_and_knows_no_secrets(
    yard: Yard, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLYARD_SECRET", "hush")
    index.add("tiny", "1.0")
    index.open.clear()
    index.reached.clear()
    making = asyncio.create_task(yard.make("tiny"))
    await _reached(index)
    [fetcher] = _fetchers()
    status = dict(line.split(":\t", 1) for line in _of(fetcher, "status").decode().splitlines())
    environment, command = _of(fetcher, "environ"), _of(fetcher, "cmdline")
    index.open.set()
    await making
    assert status["NoNewPrivs"] == "1"
    assert b"hush" not in environment
    assert index.url.encode() not in command
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(FETCH_UID)}
        assert status["Groups"].strip() == ""
        assert status["CapEff"].strip() == "0" * 16


async def test_when_nobody_waits_any_more_it_is_given_up(make_yard: Callable[..., Yard], index: PackageIndex) -> None:
    yard = make_yard()
    index.add("tiny", "1.0")
    index.open.clear()
    index.reached.clear()
    first, second = (asyncio.create_task(yard.make("tiny")) for _ in range(2))
    await _reached(index)
    first.cancel()
    await asyncio.wait({first})
    assert not second.done()
    second.cancel()
    await asyncio.wait({second})
    await yard.environments.close()
    assert _fetchers() == []
    assert yard.left() == []
    index.open.set()
    assert (await make_yard().make("tiny") / "tiny.py").is_file()


async def test_an_image_without_an_interpreter_is_told(yard: Yard) -> None:
    yard.runtime.fail_next_start("image_missing", "there is no image")
    with pytest.raises(EnvironmentFailed, match="there is no image"):
        await yard.make("tiny")
    assert yard.left() == []


@pytest.mark.parametrize("damage", ["a file gone", "a file cut", "no note of what it holds"])
async def test_a_damaged_one_is_made_anew(damage: str, yard: Yard, index: PackageIndex) -> None:
    index.add("tiny", "1.0")
    site = await yard.make("tiny")
    site.chmod(0o755)
    if damage == "a file gone":
        (site / "tiny.py").unlink()
    elif damage == "a file cut":
        (site / "tiny.py").chmod(0o644)
        (site / "tiny.py").write_text("")
    else:
        (site.parent / "ready.json").unlink()
    assert (await yard.make("tiny") / "tiny.py").read_text() == "VERSION = '1.0'\n"


async def test_what_was_half_made_when_the_controller_died_is_gone_after_its_start(
    yard: Yard, index: PackageIndex
) -> None:
    index.add("tiny", "1.0")
    site = await yard.make("tiny")
    (site.parents[1] / ".part-x" / "site").mkdir(parents=True)
    yard.environments.use(EnvironmentKey(f"{site.parents[1].name}/{site.parent.name}"), SandboxId("sb-old"))
    yard.environments.open(set())
    assert yard.left() == []
    assert yard.environments.used_by(SandboxId("sb-old")) == ""
    assert site.is_dir()


async def test_old_ones_go_and_used_ones_stay(make_yard: Callable[..., Yard], index: PackageIndex) -> None:
    yard = make_yard(store=1)
    for name in ("one", "two", "three", "four"):
        index.add(name, "1.0")
    async with yard.hold("one") as one, yard.hold("two") as two:
        yard.environments.use(one, SandboxId("sb-1"))
        held = yard.environments.site(two)
        await yard.make("three")
        three = await yard.make("three")
        await yard.make("four")
        assert not three.exists()
        assert held is not None
        assert held.exists()
    await yard.environments.tidy()
    used = yard.environments.site(one)
    assert used is not None
    assert (used.exists(), held.exists()) == (True, False)
    yard.environments.unuse(SandboxId("sb-1"))
    await yard.environments.tidy()
    assert not used.exists()


async def test_one_that_nobody_asked_for_in_a_long_time_goes(
    make_yard: Callable[..., Yard], index: PackageIndex
) -> None:
    yard = make_yard(max_age=3600.0)
    index.add("tiny", "1.0")
    site = await yard.make("tiny")
    await yard.environments.tidy()
    assert site.exists()
    os.utime(site.parent / "ready.json", (0, 0))
    await yard.environments.tidy()
    assert not site.exists()
