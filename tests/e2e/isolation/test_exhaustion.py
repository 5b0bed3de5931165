"""Taking all there is: processes, memory, space. Each ends at the sandbox's own limit."""

from __future__ import annotations

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless, unharmed

pytestmark = pytest.mark.docker

FORK = """
import os, signal
children = []
try:
    while len(children) < 400:
        child = os.fork()
        if not child:
            signal.pause()
        children.append(child)
except OSError as error:
    print(type(error).__name__, end=' ')
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
print(len(children) >= 400)
"""
FILL = """
import os, tempfile
folder = os.path.expanduser('~') if os.access(os.path.expanduser('~'), os.W_OK) else '/var/tmp'
folder = {folder} or folder
written = 0
path = os.path.join(folder, 'fill')
try:
    with open(path, 'wb', buffering=0) as file:
        while written < 700:
            file.write(b'x' * 1048576)
            written += 1
except OSError as error:
    print(type(error).__name__, error.errno, end=' ')
os.unlink(path)
print(written >= 700)
"""
MEMORY = "taken = [bytearray(64 * 1048576) for _ in range(32)]\nprint(len(taken))"
INODES = """
import os, tempfile
folder = tempfile.mkdtemp(dir={folder})
made = 0
try:
    while made < 70_000:
        os.mknod(os.path.join(folder, str(made)))
        made += 1
except OSError as error:
    print(type(error).__name__, error.errno, end=' ')
print(made >= 70_000)
"""
FILES = """
import os, resource
opened = []
try:
    while len(opened) < 4_500:
        opened.append(os.open('/dev/null', os.O_RDONLY))
except OSError as error:
    print(type(error).__name__, error.errno, end=' ')
print(len(opened) >= 4_500)
for each in opened:
    os.close(each)
"""


def test_a_fork_bomb_ends_at_the_limit_of_processes(yard: Process, careless: Careless) -> None:
    assert careless(FORK) == "True\n"
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        assert session.run(FORK, timeout_secs=60).stdout == "BlockingIOError False\n"
        assert session.run("'still here'").value == "still here"


def test_memory_past_the_limit_ends_the_kernel_and_nothing_else(yard: Process, careless: Careless) -> None:
    assert careless(MEMORY) == "32\n"
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        died = session.run(MEMORY, timeout_secs=60)
        assert died.end is cellyard.End.LOST
        assert died.end_reason == "oom"
        assert session.run("'a fresh one'").value == "a fresh one"


@pytest.mark.parametrize("folder", ["", "/tmp", "/dev/shm"])
def test_what_can_be_written_to_is_small(yard: Process, careless: Careless, folder: str) -> None:
    snippet = FILL.format(folder=repr(folder if folder != "/dev/shm" else ""))
    assert careless(snippet) == "True\n"
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        result = session.run(FILL.format(folder=repr(folder)), timeout_secs=60)
        # All of it counts as memory: either the folder is full, or the sandbox's memory is.
        assert result.stdout.startswith("OSError 28") or result.end_reason == "oom"
        assert session.run("'still here'").value == "still here"


@pytest.mark.parametrize("folder", ["/home/sandbox", "/tmp", "/dev/shm"])
def test_empty_files_are_few_too(yard: Process, careless: Careless, folder: str) -> None:
    """They would take memory without counting against any size."""
    assert careless(INODES.format(folder="'/dev/shm'")) == "True\n"  # in memory, too
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        assert session.run(INODES.format(folder=repr(folder)), timeout_secs=60).stdout == "OSError 28 False\n"
        assert session.run("'still here'").value == "still here"


@pytest.mark.parametrize("path", ["/etc/passwd", "/usr/bin/x", "/x", "/var/x", "/run/x", "/opt/x"])
def test_the_rest_cannot_be_written_to(yard: Process, careless: Careless, path: str) -> None:
    snippet = f"open({path!r}, 'a').close()\nprint('written')"
    assert careless(snippet) == "written\n"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        refused = session.run(snippet)
        assert refused.error.ename in ("OSError", "PermissionError")


def test_open_files_end_at_their_limit(yard: Process, careless: Careless) -> None:
    assert careless(FILES) == "True\n"
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        assert session.run(FILES).stdout == "OSError 24 False\n"
        assert session.run("'still here'").value == "still here"
