"""Environments of conda packages made with the real solver from a channel of the tests' own.

What needs an image runs on this machine's Python, so that packages like `python` need be nothing but names.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.authority import Authority
from tests.conda_channel import PLACEHOLDER, CondaChannel, File, Link, Package

from cellyard_controller.config import CondaConfig, EnvironmentsConfig
from cellyard_controller.environments.apart import FETCH_UID
from cellyard_controller.environments.conda_reading import read_conda_list
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import CapabilityUnavailable, EnvironmentFailed
from cellyard_controller.ids import TenantName
from cellyard_controller.runtimes import Template
from cellyard_controller.runtimes.fake import FakeRuntime

MINE = TenantName("mine")
TEMPLATE = Template("default", "")


def fill(channel: CondaChannel) -> CondaChannel:
    """What a kernel stands on, by name, and a package."""
    channel.add("python", "3.11.2", {"bin/python": File(b"#!/bin/sh\n", 0o755)}, noarch=False)
    channel.add("ipython", "9.0", depends=["python"])
    channel.add("comm", "1.0", depends=["python"])
    channel.add("tiny", "1.0", depends=["python"])
    return channel


@pytest.fixture
def channel() -> Iterator[CondaChannel]:
    channel = fill(CondaChannel())
    yield channel
    channel.close()


class Yard:
    """What makes environments, on a data folder of its own."""

    def __init__(self, folder: Path, scratch: Path, *channels: str, **settings: Any) -> None:
        self.folder, self.runtime, self.scratch = folder / "environments", FakeRuntime(), scratch
        self.config = EnvironmentsConfig(conda=CondaConfig(channels=channels), **settings)
        self.environments = Environments(self.config, self.folder, Workshop(folder / "build", "controller"))
        self.told: list[str] = []

    async def make(self, *requirements: str, channels: tuple[str, ...] = ()) -> Path:
        """The folder that a sandbox would mount."""
        definition = read_conda_list(requirements, channels, self.config)
        report = lambda stage, message: self.told.append(message)  # noqa: E731
        async with self.environments.held(MINE, definition, self.runtime, TEMPLATE, report) as key:
            site = self.environments.site(key)
            assert site is not None
            return site

    def left(self) -> list[str]:
        """What is there beside whole environments."""
        build = self.folder.parent / "build"
        places = [*self.folder.glob("*/.part-*"), *self.scratch.iterdir(), *(build.iterdir() if build.is_dir() else ())]
        return [str(each) for each in places]


@pytest.fixture
def make_yard(folder: Path, channel: CondaChannel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Yard]:
    folder.chmod(0o711)
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return lambda *channels, **settings: Yard(folder, scratch, *(channels or (channel.url,)), **settings)


@pytest.fixture
def yard(make_yard: Callable[..., Yard]) -> Yard:
    return make_yard()


async def test_packages_and_what_they_need_are_linked_for_where_they_will_stand_and_read_only(
    yard: Yard, channel: CondaChannel
) -> None:
    content = {
        "bin/tool": File(f"#!{PLACEHOLDER}/bin/python\n".encode(), 0o755, "text"),
        "lib/data.so.1": "data",
        "lib/data.so": Link("data.so.1"),
        "lib/folder": Link("../share"),
        "share/notes": "notes",
    }
    channel.add("tool", "2.0", content, depends=["tiny >=1"], noarch=False, newer=True)
    site = await yard.make("tool")
    assert (site / "bin" / "tool").read_text() == "#!/opt/environment/bin/python\n"
    modules = site / "lib" / "python3.11" / "site-packages"
    assert (modules / "tiny.py").read_text() == "VERSION = '1.0'\n"
    assert [each.name.split(".")[0] for each in (modules / "__pycache__").glob("tiny*.pyc")] == ["tiny"]
    assert os.readlink(site / "lib" / "data.so") == "data.so.1"
    assert (site / "lib" / "folder" / "notes").read_text() == "notes"
    for path in (site, *site.rglob("*")):
        about = path.lstat()
        assert about.st_uid == os.geteuid()
        assert stat.S_ISLNK(about.st_mode) or not about.st_mode & 0o222
    assert yard.told[:2] == ["looking for the environment", "choosing packages"]
    assert yard.left() == []


async def test_what_conda_notes_of_its_packages_stays_outside(yard: Yard, channel: CondaChannel) -> None:
    site = await yard.make("tiny")
    assert [each.name for each in (site / "conda-meta").iterdir()] == ["history"]
    for path in site.rglob("*"):
        assert path.is_dir() or b"127.0.0.1" not in path.read_bytes()


async def test_links_that_lead_out_of_it_do_not_come(yard: Yard, channel: CondaChannel) -> None:
    victim = yard.scratch.parent / "victim"
    victim.write_text("")
    victim.chmod(0o640)
    content = {"lib/absolute": Link(str(victim)), "lib/up": Link("../../../../../../../../etc"), "link": Link("..")}
    channel.add("links", "1.0", content, noarch=False)
    site = await yard.make("links")
    assert not any(each.is_symlink() for each in site.rglob("*"))
    assert victim.stat().st_mode & 0o777 == 0o640


async def test_the_second_request_finds_it_and_a_damaged_one_is_made_anew(yard: Yard, channel: CondaChannel) -> None:
    channel.add("linked", "1.0", {"lib/x": "x", "lib/y": Link("x")}, noarch=False)
    first = await yard.make("Linked >= 1", "tiny")
    asked = len(channel.asked)
    assert await yard.make("tiny *", "linked>=1") == first
    assert len(channel.asked) == asked
    (first / "lib").chmod(0o755)
    (first / "lib" / "y").unlink()
    assert (await yard.make("tiny", "linked>=1") / "lib" / "y").is_symlink()
    assert len(channel.asked) > asked


async def test_packages_come_from_the_channels_in_their_order(make_yard: Callable[..., Yard]) -> None:
    base, other = fill(CondaChannel("base")), CondaChannel("other")
    try:
        other.add("tiny", "9.0", depends=["python"])
        other.add("more", "1.0", depends=["python"])
        yard = make_yard(base.url, other.url)
        site = await yard.make("tiny", "more")
        assert "1.0" in next(site.rglob("tiny.py")).read_text()
        assert next(site.rglob("more.py")).is_file()
        site = await yard.make("tiny", channels=("other", "base"))
        assert "9.0" in next(site.rglob("tiny.py")).read_text()
        with pytest.raises(EnvironmentFailed, match="'more' cannot be had"):
            await yard.make("more", channels=("base",))
    finally:
        base.close()
        other.close()


async def test_a_channel_is_believed_with_the_operators_certificates_alone(
    make_yard: Callable[..., Yard], folder: Path
) -> None:
    authority = Authority(folder)
    channel = fill(CondaChannel(tls=authority.sign("channel", "127.0.0.1")))
    try:
        with pytest.raises(CapabilityUnavailable, match=r"a channel \(local\) fails"):
            await make_yard(channel.url).make("tiny")
        yard = make_yard(channel.url, certificates=authority.ca)
        assert next((await yard.make("tiny")).rglob("tiny.py")).is_file()
    finally:
        channel.close()


async def test_a_channel_may_be_a_folder(make_yard: Callable[..., Yard], channel: CondaChannel, folder: Path) -> None:
    yard = make_yard(channel.write(folder / "channels"))
    assert next((await yard.make("tiny")).rglob("tiny.py")).is_file()


async def test_scripts_that_would_be_run_after_linking_are_not_and_that_is_told(
    yard: Yard, channel: CondaChannel
) -> None:
    ran = yard.scratch / "ran"
    script = File(f"#!/bin/sh\ntouch {ran}\n".encode(), 0o755)
    channel.add(
        "scripted", "1.0", {"bin/.scripted-post-link.sh": script, "bin/.scripted-pre-link.sh": script}, noarch=False
    )
    await yard.make("scripted")
    assert not ran.exists()
    assert "the post-link script of scripted is not run" in yard.told


def _bad(channel: CondaChannel) -> None:
    """Packages that nobody should have."""
    channel.add("wants_new", "1.0", depends=["tiny >=2"])
    channel.add("old_python", "1.0", depends=["python <3.11"])
    channel.add("climbs", "1.0", {"../evil.py": "x"}, noarch=False)
    channel.add("absolute", "1.0", {"/tmp/evil.py": "x"}, noarch=False)
    channel.add("climbs_modules", "1.0", {"site-packages/../../../evil.py": "x"}, depends=["python"])
    for name, archive, said in (
        ("broken", b"no archive", {}),
        ("mismatch", None, {"sha256": "0" * 64}),
        ("anonymous", None, {"sha256": None, "md5": None}),
    ):
        package = Package(name, "1.0", {f"lib/{name}": File(b"x")})
        channel.add_archive(package, archive or package.tar_bz2("linux-64"), **said)
    peeks = Package("peeks", "1.0", {"a": Link("/etc")})
    peeks.info["info/paths.json"] = '{"paths_version": 1, "paths": [{"_path": "a/hostname", "path_type": "hardlink"}]}'
    channel.add_archive(peeks, peeks.tar_bz2("linux-64"))
    through = Package("through", "1.0", {"a": Link("/tmp"), "a/evil.py": File(b"x")})
    channel.add_archive(through, through.tar_bz2("linux-64"))


BAD = {
    "what is not there": (("tiny", "absent >=2"), r"^the requirement 'absent >=2' cannot be had: .*absent"),
    "an old version only": (("tiny >2",), r"'tiny >2' cannot be had"),
    "a conflict": (
        ("tiny ==1.0", "wants_new"),
        r"^the requirement 'wants_new' cannot be had: .*tiny >=2, for which no candidates",
    ),
    "an old Python": (("tiny", "python 3.10.*"), r"^the requirement 'python 3.10.\*' cannot be had"),
    "an old Python behind it": (("tiny", "old_python"), r"^the requirement 'old_python' cannot be had: .*python <3.11"),
    "no archive": (("tiny", "broken"), r"'broken' cannot be had"),
    "another digest": (("tiny", "mismatch"), r"'mismatch' cannot be had: .*hash mismatch"),
    "no digest": (("anonymous",), r"'anonymous' cannot be had: .*no digest"),
    "a path upwards": (("climbs",), r"'climbs' cannot be had"),
    "an absolute path": (("absolute",), r"'absolute' cannot be had: All inserted paths must be relative"),
    "a path upwards among modules": (("climbs_modules",), r"'climbs_modules' cannot be had"),
    "a file behind a link": (("peeks",), r"'peeks' cannot be had: .*not in it: 'a/hostname'"),
    "an archive through a link": (("through",), r"'through' cannot be had"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_cannot_be_had_is_told_with_its_reason_and_leaves_nothing(
    what: str, yard: Yard, channel: CondaChannel
) -> None:
    _bad(channel)
    requirements, said = BAD[what]
    with pytest.raises(EnvironmentFailed, match=said) as failed:
        await yard.make(*requirements)
    assert channel.url not in str(failed.value) + str(failed.value.details)
    assert yard.left() == []
    assert list(yard.folder.glob("*/*")) == []
    assert "evil.py" not in os.listdir("/tmp")
    assert not list(yard.scratch.parent.rglob("evil.py"))


async def test_a_failure_is_tried_again_at_the_next_request(yard: Yard, channel: CondaChannel) -> None:
    with pytest.raises(EnvironmentFailed, match="'absent' cannot be had"):
        await yard.make("absent")
    channel.add("absent", "1.0", depends=["python"])
    assert next((await yard.make("absent")).rglob("absent.py")).is_file()


async def test_a_channel_that_cannot_be_reached_makes_conda_unavailable(make_yard: Callable[..., Yard]) -> None:
    yard = make_yard("http://somebody:hush@127.0.0.1:9/gone")
    with pytest.raises(CapabilityUnavailable, match=r"a channel \(gone\) fails: .*refused") as failed:
        await yard.make("tiny")
    assert "hush" not in str(failed.value)
    assert yard.left() == []


async def test_where_channels_are_and_how_one_gets_in_there_is_not_told(
    make_yard: Callable[..., Yard], channel: CondaChannel
) -> None:
    yard = make_yard(channel.url.replace("://", "://somebody:hush@"))
    package = Package("broken", "1.0", {"lib/x": File(b"x")})
    channel.add_archive(package, package.tar_bz2("linux-64"), sha256="0" * 64)
    with pytest.raises(EnvironmentFailed, match="hash mismatch") as failed:
        await yard.make("broken")
    told = f"{failed.value} {failed.value.details}"
    assert "hush" not in told
    assert "127.0.0.1" not in told
    site = await yard.make("tiny")
    assert not any(b"hush" in each.read_bytes() for each in site.rglob("*") if each.is_file())


async def test_a_channel_that_is_none_makes_conda_unavailable(
    make_yard: Callable[..., Yard], channel: CondaChannel
) -> None:
    with pytest.raises(CapabilityUnavailable, match=r"a channel \(nowhere\) fails: .*404"):
        await make_yard(f"{channel.url}/nowhere").make("tiny")


@pytest.mark.parametrize("index", [b"{", b"[]", b'{"packages": {"x-1-0.tar.bz2": 1}}', b"\0" * 1000])
async def test_a_channel_with_a_damaged_index_fails_in_one_sentence(
    index: bytes, yard: Yard, channel: CondaChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "repodata", lambda subdir: index)
    with pytest.raises((CapabilityUnavailable, EnvironmentFailed)) as failed:
        await yard.make("tiny")
    assert "Traceback" not in str(failed.value)
    assert yard.left() == []


async def test_a_channel_that_hangs_is_cut(make_yard: Callable[..., Yard], channel: CondaChannel) -> None:
    yard = make_yard(fetch_timeout=2.0)
    channel.open.clear()
    with pytest.raises(EnvironmentFailed, match="fetching took longer than 2 s"):
        await yard.make("tiny")
    assert yard.left() == []


async def test_what_would_fill_the_disk_is_cut(make_yard: Callable[..., Yard], channel: CondaChannel) -> None:
    yard = make_yard(size=1024 * 1024)
    channel.add("bomb", "1.0", {"share/bomb": File(bytes(8_000_000))}, noarch=False)
    for number in range(4):
        channel.add(f"part{number}", "1.0", {f"share/part{number}": File(bytes(400_000))}, noarch=False)
    with pytest.raises(EnvironmentFailed):
        await yard.make("bomb")
    with pytest.raises(EnvironmentFailed, match=r"1.0 MiB"):
        await yard.make(*(f"part{number}" for number in range(4)))
    assert yard.left() == []


def _children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def _of(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _fetchers() -> list[int]:
    return [pid for pid in _children() if b"order.json" in _of(pid, "cmdline")]


async def test_the_fetcher_has_no_rights_and_shows_no_secrets_and_is_given_up_when_nobody_waits(
    yard: Yard, channel: CondaChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELLYARD_SECRET", "hush")
    channel.open.clear()
    channel.reached.clear()
    making = asyncio.create_task(yard.make("tiny"))
    assert await asyncio.to_thread(channel.reached.wait, 60)
    [fetcher] = _fetchers()
    status = dict(line.split(":\t", 1) for line in _of(fetcher, "status").decode().splitlines())
    environment, command = _of(fetcher, "environ"), _of(fetcher, "cmdline")
    making.cancel()
    await asyncio.wait({making})
    await yard.environments.close()
    assert _fetchers() == []
    assert yard.left() == []
    assert status["NoNewPrivs"] == "1"
    assert b"hush" not in environment
    assert channel.url.encode() not in command
    if os.geteuid() == 0:
        assert set(status["Uid"].split()) == {str(FETCH_UID)}
        assert status["CapEff"].strip() == "0" * 16
