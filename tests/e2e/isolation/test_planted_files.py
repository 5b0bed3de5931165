"""What a cell plants under the names that its client uploads to, downloads, lists and removes.

Each trap snaps shut on whoever works on files without care; the agent, which works for the client, does not step in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless

pytestmark = pytest.mark.docker

BEFORE = """
import os, shutil, signal, socket, stat, tempfile
os.chdir(os.environ['HOME'] if os.access(os.environ['HOME'], os.W_OK) else '/var/tmp')
shutil.rmtree('traps', ignore_errors=True)
os.mkdir('traps')
os.chdir('traps')
theirs = tempfile.mkdtemp(dir='/tmp')
open(theirs + '/file', 'w').write('theirs')
"""
READ = "snapped = open(name).read(10)"
WRITE = "open(name, 'w').write('from outside')\nsnapped = open(there).read() == 'from outside'"
REPLACE = "open('new', 'w').close()\nos.replace('new', name)\nsnapped = os.path.isfile(name)"
REMOVE = "os.remove(name)\nsnapped = not os.path.exists(there)"
LIST = "snapped = os.listdir(name)"
WAIT = """
class Hung(Exception): pass
def hung(*_): raise Hung
signal.signal(signal.SIGALRM, hung)
signal.alarm(1)
snapped = False
try: open(name).read()
except Hung: snapped = True
"""
STATE = "os.listdir(theirs), open(theirs + '/file').read(), [(n, os.lstat(n).st_mode) for n in sorted(os.listdir('.'))]"


@dataclass(frozen=True)
class Trap:
    """What a cell does, the name that its client then uses, and what becomes of whoever is careless with that."""

    planted: str
    name: str
    careless: str
    call: str
    refusal: str
    there: str = "''"


PASSWD, ABOVE, ROOT = "os.symlink('/etc/passwd', 'a')", "os.symlink('../' * 9 + 'etc/passwd', 'a')", "/proc/self/root"
TO_FILE, TO_FOLDER, TO_ETC = (f"os.symlink({to}, 'a')" for to in ("theirs + '/file'", "theirs", "'/etc'"))
NOWHERE, SOCKET = "os.symlink(theirs + '/new', 'a')", "socket.socket(socket.AF_UNIX).bind('a')"
TO_PIPE = "os.mkfifo('b')\nos.symlink('b', 'a')"
TRAPS = {
    "a link, downloaded": Trap(PASSWD, "a", READ, "download", "a link"),
    "a link that climbs, downloaded": Trap(ABOVE, "a", READ, "download", "a link"),
    "a link of /proc, downloaded": Trap(f"os.symlink('{ROOT}', 'a')", "a/etc/passwd", READ, "download", "a link"),
    "a link in the path, downloaded": Trap(TO_ETC, "a/passwd", READ, "download", "a link"),
    "a device without end, downloaded": Trap("os.symlink('/dev/zero', 'a')", "a", READ, "download", "a link"),
    "a pipe without a writer, downloaded": Trap("os.mkfifo('a')", "a", WAIT, "download", "a pipe"),
    "a link to a pipe, downloaded": Trap(TO_PIPE, "a", WAIT, "download", "a link"),
    "a link, uploaded to": Trap(TO_FILE, "a", WRITE, "upload", "a link", "theirs + '/file'"),
    "a link to nowhere, uploaded to": Trap(NOWHERE, "a", WRITE, "upload", "a link", "theirs + '/new'"),
    "a link in the path, uploaded to": Trap(TO_FOLDER, "a/new", WRITE, "upload", "no folder", "theirs + '/new'"),
    "a pipe, uploaded to": Trap("os.mkfifo('a')", "a", REPLACE, "upload", "a pipe"),
    "a socket, uploaded to": Trap(SOCKET, "a", REPLACE, "upload", "a socket"),
    "a link, listed": Trap(TO_ETC, "a", LIST, "list_files", "no folder"),
    "a folder of /proc, listed": Trap("os.symlink('/proc/self', 'a')", "a/fd", LIST, "list_files", "a link"),
    "a link in the path, removed": Trap(TO_FOLDER, "a/file", REMOVE, "remove_file", "no folder", "theirs + '/file'"),
}


@pytest.fixture(scope="module")
def cell(yard: Process) -> Iterator[cellyard.Session]:
    """A notebook for all of them."""
    with cellyard.Session(endpoint=yard.endpoint) as session:
        session.start_kernel()
        yield session


@pytest.mark.parametrize("what", TRAPS)
def test_what_is_no_plain_file_is_not_worked_on(cell: cellyard.Session, careless: Careless, what: str) -> None:
    trap = TRAPS[what]
    step_in = f"name, there = {trap.name!r}, {trap.there}\n{trap.careless}\nprint(bool(snapped))"
    assert careless(f"{BEFORE}{trap.planted}\n{step_in}") == "True\n"
    assert cell.run(BEFORE + trap.planted).success
    before = cell.run(STATE).value
    content = [b"from outside"] if trap.call == "upload" else []
    with pytest.raises(cellyard.InvalidRequest, match=trap.refusal):
        getattr(cell, trap.call)(*content, f"traps/{trap.name}")
    assert cell.run(STATE).value == before


SWAP = """
import ctypes
os.mkdir('a')
open('a/file', 'w').write('mine')
open(theirs + '/more', 'w').close()
os.symlink(theirs, 'b')
libc = ctypes.CDLL(None, use_errno=True)
def swap():  # at once: never is there neither of them
    assert libc.renameat2(-100, b'a', -100, b'b', 2) == 0
"""
READ_SWAPPED = """
swapping = os.fork()
if swapping == 0:
    while True: swap()
read = set()
while read != {'mine', 'theirs'}:
    read.add(open('a/file').read())
os.kill(swapping, signal.SIGKILL)
print(sorted(read))
"""
ROUNDS = 60


async def test_a_folder_that_turns_into_a_link_and_back_is_worked_on_or_refused_but_never_followed(
    yard: Process, careless: Careless
) -> None:
    assert careless(BEFORE + SWAP + READ_SWAPPED) == "['mine', 'theirs']\n"
    async with cellyard.AsyncSession(endpoint=yard.endpoint) as session, asyncio.timeout(120):
        await session.run(BEFORE + SWAP)
        swapping = asyncio.create_task(session.run("while not os.path.exists('over'): swap()", timeout_secs=None))
        rounds = done = refused = 0
        while rounds < ROUNDS or not done or not refused:
            rounds += 1
            try:
                assert await session.download("traps/a/file") == b"mine"
                await session.upload(b"from outside", "traps/a/new")
                listed = {file.name for file in await session.list_files("traps/a")}
                assert listed <= {"file", "new"}, listed
                await session.remove_file("traps/a/new")
                done += 1
            except cellyard.InvalidRequest:
                refused += 1
        await session.upload(b"", "traps/over")
        assert (await swapping).success
        left = await session.run("sorted(os.listdir(theirs)), open(theirs + '/file').read()")
        assert left.value == (["file", "more"], "theirs")
