"""Code mode's sessions in every runtime that there is, over one controller with real containers."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from cellyard.codemode import Session
from tests.controller_process import Process
from tests.package_index import PackageIndex

RUNTIMES = ("docker", "process", "inprocess")

Opens: TypeAlias = Callable[..., Session]

SAY = """
import json, os, sys
what = sys.argv[1]
if what == "count":
    with open(sys.argv[2], "a") as file:
        file.write("x")
elif what == "hang":
    open(sys.argv[2], "w").write(str(os.getpid()))
    import signal
    while True:
        signal.pause()
print(json.dumps(sys.argv[1:]))
"""
SAY_YAML = """
name: say
description: Says what it is given
tags: [speech, test]
command: {command}
timeout: 30
schema:
  positional:
    - {{name: what, type: string, required: true}}
    - {{name: more, type: string}}
recipes:
  hello:
    description: Greets
    preset: {{what: hello}}
    params:
      more: {{type: string, default: world}}
"""


@pytest.fixture(scope="session")
def index() -> Iterator[PackageIndex]:
    """Packages that nobody has."""
    index = PackageIndex()
    index.add("tiny", "1.0", {"tiny/__init__.py": "ANSWER = 42\n"})
    index.add("tiny", "2.0", {"tiny/__init__.py": "ANSWER = 43\n"})
    index.add("other", "1.0", {"other/__init__.py": "ANSWER = 44\n"})
    yield index
    index.close()


@pytest.fixture(scope="module")
def controller(built_image: str, module_folder: Path, index: PackageIndex) -> Iterator[Process]:
    """Serves containers and processes, of which some are warm."""
    process = Process(module_folder)
    settings = {"CELLYARD_ENVIRONMENTS__INDEX": index.url, "CELLYARD_POOL__SIZE": "2"}
    process.start("--runtime", "docker,process", env=settings)
    yield process
    process.close()


@pytest.fixture
def base(folder: Path) -> Path:
    """A workspace with a tool that says what it was given."""
    base = folder / "base"
    (base / "tools").mkdir(parents=True)
    program = base / "say"
    program.write_text(f"#!{sys.executable}\n{SAY}")
    program.chmod(0o755)
    (base / "tools" / "say.yaml").write_text(SAY_YAML.format(command=program))
    return base


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)


@pytest.fixture
def opens(controller: Process, base: Path, runtime: str, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Opens:
    """Makes a session on the workspace, in this runtime."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)  # where a program in its own process looks for packages
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(base.parent / "cache"))

    def opens(**wishes: Any) -> Session:
        where = {} if runtime == "inprocess" else {"endpoint": controller.endpoint}
        return Session.from_base(base, runtime=runtime, **where, **wishes)

    return opens


@pytest.fixture
async def session(opens: Opens) -> AsyncIterator[Session]:
    """One that has started."""
    async with opens() as session:
        yield session
