"""Each source of environments, from the call to a first result: cold, kept from before, and prewarmed, in one run.

A source is a function that gives the ways in which its kernels are started; a new one is a row of SOURCES. The table
goes into docs/environment-starts.md too.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import cellyard
from cellyard_controller.runtimes.docker import images
from tests.bench.conftest import Launch, full, pool_of, timed
from tests.bench.report import Row, row
from tests.conda_channel import CondaChannel
from tests.conda_python import add_kernel, add_python
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = [pytest.mark.bench, pytest.mark.docker]

ROUNDS = 9
PAGE = Path(__file__).parents[2] / "docs" / "environment-starts.md"
USUAL = ("uv:prewarmed", "cached")
"""What all is compared with: a start of `uv:prewarmed` that finds no warm sandbox."""
WAYS = {"cold": 20.0, "cached": 1.5, "prewarmed": 1.0}
"""How many times as long each may take."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Yard:
    """What the starts are measured on."""

    cold: Process
    """A controller without warm sandboxes."""
    warm: Process
    """One with one, of a Python kernel."""
    warm_deno: Process
    """One with one, of a Deno kernel."""
    warm_conda: Process
    """One with one, of `conda:prewarmed`."""
    index: PackageIndex
    channel: CondaChannel
    """What they fetch from."""


Start = Callable[[], float]
"""One start from a new session to its first result, in seconds."""


@dataclass(frozen=True)
class Ways:
    """The ways in which kernels of one source start; None for a way that there is none of."""

    cold: Start | None
    """Nothing of it is there but the image."""
    cached: Start | None
    """It was made before; no sandbox is warm."""
    prewarmed: Start | None
    """A warm sandbox waits."""

    def each(self) -> Iterator[tuple[str, Start]]:
        """Those that there are, by name."""
        for way in WAYS:
            start = getattr(self, way)
            if start is not None:
                yield way, start


def seconds(process: Process, code: str, begin: Callable[[cellyard.Session], None] | None, source: str) -> float:
    """Seconds from `start_kernel` to the result of this code; its kernel is gone afterwards."""
    session = cellyard.Session(endpoint=process.endpoint)
    try:
        session.connect()
        if begin is not None:
            begin(session)
        kernel = "deno" if source == "deno" else "python"

        def first() -> None:
            session.start_kernel(kernel, source)
            result = session.run(code)
            assert result.success, result.text

        taken = timed(first)
        assert session.env_source == source
        session.shutdown_kernel()
        return taken
    finally:
        session.close()


def prewarmed(yard: Yard) -> Ways:
    """`uv:prewarmed`: there is nothing to make, so that a cold start and a cached one are the same."""

    def start() -> float:
        return seconds(yard.cold, "1+1", None, "uv:prewarmed")

    return Ways(None, start, lambda: seconds(yard.warm, "1+1", None, "uv:prewarmed"))


def inline(yard: Yard) -> Ways:
    """`uv:inline`: one package of an index on this machine, a new one for each cold start."""

    def start(name: str) -> float:
        metadata = json.dumps({"runt": {"uv": {"dependencies": [name]}}})
        begin = lambda session: session.set_metadata("notebook_metadata", metadata)  # noqa: E731
        return seconds(yard.cold, f"import {name}", begin, "uv:inline")

    return Ways(lambda: start(_package(yard)), _again(start, _package(yard)), None)


def pyproject(yard: Yard) -> Ways:
    """`uv:pyproject`: the same, listed in a file beside the notebook."""

    def start(name: str) -> float:
        content = f'[project]\nname = "x"\ndependencies = ["{name}"]\n'
        return beside(yard, "pyproject.toml", content, name, "uv:pyproject")

    return Ways(lambda: start(_package(yard)), _again(start, _package(yard)), None)


def conda_prewarmed(yard: Yard) -> Ways:
    """`conda:prewarmed`: what the operator has defined, made when the controller starts."""

    def start(process: Process) -> float:
        return seconds(process, "1+1", None, "conda:prewarmed")

    return Ways(None, lambda: start(yard.cold), lambda: start(yard.warm_conda))


def conda_inline(yard: Yard) -> Ways:
    """`conda:inline`: Python, what the kernel stands on, and one package of a channel on this machine."""

    def start(name: str) -> float:
        metadata = json.dumps({"runt": {"conda": {"dependencies": [name]}}})
        begin = lambda session: session.set_metadata("notebook_metadata", metadata)  # noqa: E731
        return seconds(yard.cold, f"import {name}", begin, "conda:inline")

    return Ways(lambda: start(_conda_package(yard)), _again(start, _conda_package(yard)), None)


def conda_file(yard: Yard) -> Ways:
    """`conda:env_yml`: the same, listed in a file beside the notebook."""

    def start(name: str) -> float:
        return beside(yard, "environment.yml", f"dependencies:\n  - {name}\n", name, "conda:env_yml")

    return Ways(lambda: start(_conda_package(yard)), _again(start, _conda_package(yard)), None)


def pixi(yard: Yard) -> Ways:
    """`pixi:toml`: likewise."""

    def start(name: str) -> float:
        content = f'[workspace]\nchannels = ["local"]\n[dependencies]\n{name} = "*"\n'
        return beside(yard, "pixi.toml", content, name, "pixi:toml")

    return Ways(lambda: start(_conda_package(yard)), _again(start, _conda_package(yard)), None)


def beside(yard: Yard, file: str, content: str, name: str, source: str) -> float:
    """Seconds of a start with a project file in the current folder, which is where a source that is named looks."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, file).write_text(content)
        before = os.getcwd()
        os.chdir(folder)
        try:
            return seconds(yard.cold, f"import {name}", None, source)
        finally:
            os.chdir(before)


def deno(yard: Yard) -> Ways:
    """`deno`: as `uv:prewarmed`, in the image of Deno kernels."""

    def start(process: Process) -> float:
        return seconds(process, "1+1", None, "deno")

    return Ways(None, lambda: start(yard.cold), lambda: start(yard.warm_deno))


SOURCES: dict[str, Callable[[Yard], Ways]] = {
    "uv:prewarmed": prewarmed,
    "uv:inline": inline,
    "uv:pyproject": pyproject,
    "conda:prewarmed": conda_prewarmed,
    "conda:inline": conda_inline,
    "conda:env_yml": conda_file,
    "pixi:toml": pixi,
    "deno": deno,
}


def _package(yard: Yard) -> str:
    name = f"package{next(_numbers)}"
    yard.index.add(name, "1.0")
    return name


def _conda_package(yard: Yard) -> str:
    name = f"package{next(_numbers)}"
    yard.channel.add(name, "1.0", {f"site-packages/{name}.py": "ANSWER = 42\n"}, ["python"])
    return name


def _again(start: Callable[[str], float], name: str) -> Start:
    """Starts with what an earlier one has made."""
    made: list[str] = []

    def cached() -> float:
        if not made:
            start(name)
            made.append(name)
        return start(name)

    return cached


@pytest.fixture
def yard(launch: Launch, built_image: str) -> Iterator[Yard]:
    with closing(images.connect()) as client:
        images.build(print, client=client, kernel_type="deno")
    with ExitStack() as stack:
        index = stack.enter_context(closing(PackageIndex()))
        channel = stack.enter_context(closing(CondaChannel()))
        add_python(channel, built_image)
        add_kernel(channel)
        of_conda = {
            "CELLYARD_ENVIRONMENTS__CONDA__CHANNELS": json.dumps([channel.url]),
            "CELLYARD_ENVIRONMENTS__CONDA__PREWARMED": json.dumps(["python"]),
        }
        only = {"CELLYARD_POOL__MAX": "0"}
        one_deno = {"CELLYARD_TEMPLATES__DEFAULT__DENO_POOL": "1", **only}
        one_conda = {"CELLYARD_TEMPLATES__DEFAULT__CONDA_POOL": "1", **only, **of_conda}
        pools = [pool_of(1), one_deno, one_conda]
        warm, warm_deno, warm_conda = [stack.enter_context(_controller(env)) for env in pools]
        cold = launch(CELLYARD_ENVIRONMENTS__INDEX=index.url, **of_conda)
        yield Yard(cold, warm, warm_deno, warm_conda, index, channel)


@contextmanager
def _controller(env: dict[str, str]) -> Iterator[Process]:
    folder = Path(tempfile.mkdtemp(prefix="cy"))
    process = Process(folder)
    process.start(env=env)
    try:
        yield process
    finally:
        process.close()
        shutil.rmtree(folder, ignore_errors=True)


def test_environments_each_source_cold_cached_and_prewarmed(yard: Yard, rows: list[Row]) -> None:
    """In turn, in another order each time, so that whatever else goes on falls on all of them."""
    starts = [(source, way, start) for source, make in SOURCES.items() for way, start in make(yard).each()]
    taken: dict[tuple[str, str], list[float]] = {}
    for turn in range(ROUNDS + 1):
        for source, way, start in random.Random(turn).sample(starts, len(starts)):
            for pooled in (yard.warm, yard.warm_deno, yard.warm_conda):
                full(pooled, 1)  # nobody fills a pool up meanwhile
            spent = start()
            if turn:  # the first round loads what later ones find
                taken.setdefault((source, way), []).append(spent)
    usual = taken[USUAL]
    for source, way, _ in starts:
        if (source, way) != USUAL:
            spans = taken[source, way]
            rows.append(row(f"{source}, {way}", spans, "uv:prewarmed, no warm sandbox", usual, WAYS[way]))
    PAGE.write_text(page(taken))


def page(taken: dict[tuple[str, str], list[float]]) -> str:
    """The table as the documentation has it."""
    usual = statistics.median(taken[USUAL])

    def cell(source: str, way: str) -> str:
        spent = taken.get((source, way))
        if spent is None:
            return "-"
        middle = statistics.median(spent)
        return f"{middle * 1e3:.0f} ms ({middle / usual:.2f})"

    table = "\n".join(f"| `{source}` | {' | '.join(cell(source, way) for way in WAYS)} |" for source in SOURCES)
    worst = max(statistics.median(taken[source, "cached"]) / usual for source in SOURCES)
    return f"""\
# How long environments take to start

Written by `make bench PYTEST_ARGS='-k environments'`; do not edit. From `start_kernel` to the first result, the median
of {ROUNDS} starts that were measured in turn in one run, on a machine with {os.cpu_count()} processors; in brackets
the ratio to a start of `uv:prewarmed` that finds no warm sandbox.

- *Cold*: nothing of it is there but the image; one small package is fetched, from an index or a channel on the same
  machine. Conda's comes with Python itself and what the kernel stands on.
- *Cached*: it was made before, and no sandbox is warm.
- *Prewarmed*: a warm sandbox waits.

For `uv:prewarmed` and `deno` there is nothing to make; `conda:prewarmed` is made once, when its pool is first filled or
somebody first asks for it. Environments that clients define have no pools, because each is a tenant's own.

| `env_source` | cold | cached | prewarmed |
| --- | --- | --- | --- |
{table}

A cached start is to take at most {WAYS["cached"]} times as long; here the slowest takes {worst:.2f} times.
"""
