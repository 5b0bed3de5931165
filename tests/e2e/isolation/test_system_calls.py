"""System calls that lead out of a sandbox, or to the kernel's less guarded corners: each does its work elsewhere.

That every refused call is refused, whatever its arguments, is shown in tests/e2e/runtimes/test_seccomp.py; here they
are called as whoever wants something from them would call them, from a cell.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless

pytestmark = pytest.mark.docker

EPERM, ENOSYS = "[Errno 1]", "[Errno 38]"
BEFORE = """
import ctypes, os, socket, struct, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    answer = libc.syscall(ctypes.c_long(number), *longs)
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
def child():
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)  # until whoever made it ends
        os._exit(0)
    os.close(reader)
    return pid
def began(pid):
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
"""
CALLS = {
    "mount a file system": "call(165, b'none', tempfile.mkdtemp(dir='/tmp').encode(), b'tmpfs', 0, 0)",
    "mount the newer way": "call(430, b'tmpfs', 0)",
    "unshare the users": "call(272, 0x10000000)",
    "unshare the network": "call(272, 0x40000000)",
    "clone into other users": "began(call(56, 0x10000000 | 17, 0, 0, 0, 0))",
    "enter a namespace": "call(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "attach to a process": "pid = child()\ncall(101, 16, pid, 0, 0)\nos.waitpid(pid, 0)\ncall(101, 17, pid, 0, 0)",
    "read another's memory": (
        "secret, found = (ctypes.create_string_buffer(each, 6) for each in (b'secret', b''))\n"
        "theirs, mine = (struct.pack('QQ', ctypes.addressof(each), 6) for each in (secret, found))\n"
        "call(310, child(), mine, 1, theirs, 1, 0)\nassert found.raw == b'secret'"
    ),
    "take another's descriptor": "call(438, os.pidfd_open(child()), 0, 0)",
    "compare with another": "call(312, os.getpid(), child(), 0, 0, 0)",
    "a ring of io_uring": "call(425, 8, bytes(120))",
    "asynchronous input and output": "call(206, 8, bytes(8))",
    "a map of bpf": "call(321, 0, struct.pack('5I', 2, 4, 4, 1, 0) + bytes(52), 72)",
    "a socket to the machine below": "socket.socket(40, socket.SOCK_STREAM)",
    "faults of pages in user space": "call(323, os.O_CLOEXEC)",
    "a key in a ring": (
        "key = call(248, b'user', b'cellyard', b'secret', 6, -3)\nfound = ctypes.create_string_buffer(6)\n"
        "call(250, 11, key, found, 6)\nassert found.raw == b'secret'"
    ),
    "counters of the processor": "call(298, struct.pack('IIQ', 1, 128, 0) + bytes(112), 0, -1, -1, 0)",
    "a file by its handle": (
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128))\n"
        "call(303, -100, b'/dev/shm', handle, ctypes.create_string_buffer(4), 0)\n"
        "call(304, os.open('/dev/shm', os.O_RDONLY), handle, 0)"
    ),
    "the kernel's log": "call(103, 3, ctypes.create_string_buffer(64), 64)",
    "whatever is opened": "call(300, 0, 0)",
    "memory at fixed places": "call(135, 0x40000)",
    "a network interface": "import fcntl\nfcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0))",
}
NEWER_CLONE = "began(call(435, struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88))"
OLDER_CALLS = """
import ctypes, mmap, subprocess, sys
code = '''
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
'''
print(subprocess.run([sys.executable, '-c', code]).returncode)
"""


@pytest.fixture(scope="module")
def cell(yard: Process) -> Iterator[cellyard.Session]:
    """A notebook for all of them: what is refused leaves nothing behind."""
    with cellyard.Session(endpoint=yard.endpoint) as session:
        yield session


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_leads_out_is_not_permitted(cell: cellyard.Session, careless: Careless, what: str) -> None:
    snippet = f"{BEFORE}{CALLS[what]}\nprint('got it')"
    assert careless(snippet) == "got it\n"
    refused = cell.run(snippet)
    assert refused.stdout == ""
    assert refused.error.evalue.startswith(EPERM), refused.text


def test_a_call_whose_arguments_cannot_be_judged_is_not_there(cell: cellyard.Session, careless: Careless) -> None:
    snippet = f"{BEFORE}{NEWER_CLONE}\nprint('got it')"
    assert careless(snippet) == "got it\n"
    refused = cell.run(snippet)
    assert refused.stdout == ""
    assert refused.error.evalue.startswith(ENOSYS), refused.text


def test_a_call_of_another_architecture_ends_its_process(cell: cellyard.Session, careless: Careless) -> None:
    assert careless(OLDER_CALLS) == "0\n"
    assert cell.run(OLDER_CALLS).stdout == "-31\n"  # SIGSYS
    assert cell.run("'still here'").value == "still here"
