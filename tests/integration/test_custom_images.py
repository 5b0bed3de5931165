"""What an operator's images are made from is fetched without telling others where from."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.package_index import PackageIndex

from cellyard_controller.custom_images import requirements
from cellyard_controller.runtimes.docker import wheels

WITHIN = 60.0


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with closing(PackageIndex()) as index:
        index.add("tiny", "1.0")
        yield index


def commands_while_it_asks(index: PackageIndex, work: Callable[[], object]) -> list[str]:
    """The command lines of all processes, as every user of the machine sees them, while the index is asked."""
    index.open.clear()
    index.reached.clear()
    working = threading.Thread(target=work)
    working.start()
    assert index.reached.wait(WITHIN)
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(each.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            pass  # it has ended meanwhile
    index.open.set()
    working.join(WITHIN)
    assert not working.is_alive()
    return lines


def test_where_the_index_is_stands_in_no_command_line(
    index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    url = index.url.replace("://", "://reader:hush@")
    target = requirements.Target("3.11", f"{platform.machine()}-manylinux_2_36")
    locks: list[str] = []
    pinning = commands_while_it_asks(index, lambda: locks.append(requirements.pin(["tiny"], target, "", url)))
    (lock,) = locks
    assert requirements.pins(lock) == ["tiny==1.0"]
    file = tmp_path / "requirements.lock"
    file.write_text(lock)
    folders: list[Path] = []
    fetching = commands_while_it_asks(
        index,
        lambda: folders.append(wheels.fetch([file], platform.machine(), print, family="custom", index=url)),
    )
    assert [each.name for each in folders[0].iterdir()] == ["tiny-1.0-py3-none-any.whl"]
    for lines, program in ((pinning, "pip compile"), (fetching, "pip download")):
        assert any(program in line for line in lines)
        assert not any(f":{index.port}" in line or "hush" in line for line in lines)
