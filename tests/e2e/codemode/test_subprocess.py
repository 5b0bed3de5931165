"""What is particular to the process runtime: its Python, and packages that sessions share."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cellyard.codemode import Session
from cellyard.codemode.executors import cached
from cellyard.errors import EnvironmentFailed
from tests.controller_process import Process
from tests.e2e.codemode.conftest import Opens

pytestmark = pytest.mark.docker


@pytest.fixture
def runtime() -> str:
    """Processes alone."""
    return "process"


@pytest.fixture
def opens_subprocess(opens: Opens, controller: Process, base: Path) -> Opens:
    """By the constructor that has all settings; `opens` has set the index."""

    def opens_(**wishes: Any) -> Session:
        return Session.subprocess(base, endpoint=controller.endpoint, **wishes)

    return opens_


def made() -> dict[str, tuple[int, int]]:
    """Every file of the cache with its inode and its time."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in cached.root().rglob("*")
        if path.name != ".lock"
    }


async def test_sessions_share_packages_that_are_made_once_and_never_changed(opens_subprocess: Opens) -> None:
    for _ in range(2):
        async with opens_subprocess(extra_deps=("tiny==1.0", "other"), sync_deps_on_start=True) as session:
            code = "import tiny, other, sys\ntiny.__file__, [p for p in sys.path if p.endswith('cellyard/cached')]"
            file, places = (await session.run(code)).value
            assert "/cached/tiny/" in file
            assert len(places) == 1
            before = made()
            assert any(path.endswith("tiny/__init__.py") for path in before)
            program = "import tiny; print(tiny.ANSWER)"
            started = f"import subprocess, sys\nsubprocess.check_output([sys.executable, '-c', {program!r}], text=True)"
            assert (await session.run(started)).value == "42\n"
            await session.reset()
            assert (await session.run("import tiny\ntiny.ANSWER")).value == 42
    folders = [path for path in cached.root().iterdir() if path.is_dir()]
    assert len(folders) == 2  # that with the two packages, and the one without any
    assert made() == before


async def test_sessions_that_want_the_same_at_the_same_time_make_one(opens_subprocess: Opens) -> None:
    async with opens_subprocess() as one, opens_subprocess() as two:
        done = await asyncio.gather(one.add_dep("tiny==2.0"), two.add_dep("tiny==2.0"))
        assert {tuple(each["installed"]) for each in done} == {("tiny==2.0",)}
        for session in (one, two):
            assert (await session.run("import tiny\ntiny.ANSWER")).value == 43
    assert len([path for path in cached.root().iterdir() if path.is_dir()]) == 2


async def test_what_fails_leaves_nothing_and_what_was_there_stays(opens_subprocess: Opens) -> None:
    async with opens_subprocess() as session:
        await session.add_dep("tiny==1.0")
        before = made()
        assert (await session.add_dep("nowhere"))["failed"] == ["nowhere"]
        assert (await session.add_dep("numpy<1"))["failed"] == ["numpy<1"]
        assert made() == before
        assert (await session.run("import tiny\ntiny.ANSWER")).value == 42


async def test_without_the_cache_packages_are_the_sessions_own(opens_subprocess: Opens) -> None:
    async with opens_subprocess(cache_venv=False) as session:
        assert (await session.add_dep("tiny==1.0"))["installed"] == ["tiny==1.0"]
        assert (await session.run("import tiny\ntiny.ANSWER")).value == 42
        assert (await session.remove_dep("tiny"))["removed"] == ["tiny"]
    assert not cached.root().exists()


async def test_a_python_that_is_not_installed_is_refused_with_those_that_are(opens_subprocess: Opens) -> None:
    session = opens_subprocess(python_version="3.9")
    with pytest.raises(EnvironmentFailed, match=r"Python 3\.9 cannot be had: .* has 3\.1[12]"):
        await session.start()
    await session.close()
