"""Reaching for what is not the cell's: other processes, the agent, its link, the engine, the host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import Careless, unharmed

pytestmark = pytest.mark.docker

REACHES = {
    "the engine's socket": (
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('/var/run/docker.sock')\nprint('got it')"
    ),
    "the kernel's log": "open('/dev/kmsg', 'rb').close()\nprint('got it')",
    "the host's processes": (
        "import os\nnames = []\n"
        "for process in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try: names.append(open(f'/proc/{process}/comm').read().strip())\n"
        "    except (FileNotFoundError, ProcessLookupError): pass  # it has ended meanwhile\n"
        "assert 'dockerd' in names, names\nprint('got it')"
    ),
    "the memory of its parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'rb').close()\nprint('got it')",
    "the environment of its parent": "import os\nopen(f'/proc/{os.getppid()}/environ').read()\nprint('got it')",
    "a descriptor of its parent": "import os\nos.readlink(f'/proc/{os.getppid()}/fd/0')\nprint('got it')",
    "a copy of its parent's descriptor": (
        "import ctypes, os\nparent = os.pidfd_open(os.getppid())\n"
        "if ctypes.CDLL(None).syscall(438, parent, 0, 0) < 0: raise OSError('refused')\nprint('got it')"
    ),
    "keys in the kernel": "assert open('/proc/keys').read()\nprint('got it')",
    "the host's name server": (
        "lines = [line.split() for line in open('/etc/resolv.conf') if line.startswith(('nameserver', 'search'))]\n"
        "assert {line[1] for line in lines} - {'127.0.0.1'}, lines\nprint('got it')"
    ),
    "a raw socket": (
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)\nprint('got it')"
    ),
    "a packet socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)\nprint('got it')",
    "another user": "import os\nos.setuid(0)\nos.setgid(0)\nos.setuid(12345)\nprint('got it')",
    "a device node": "import os, stat\nos.mknod('/tmp/null', stat.S_IFCHR | 0o666, os.makedev(1, 3))\nprint('got it')",
    "the clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, time.time())\nprint('got it')",
    "the host's name": "import socket\nsocket.sethostname(socket.gethostname())\nprint('got it')",
    "kernel parameters": (
        "value = open('/proc/sys/kernel/panic').read()\nopen('/proc/sys/kernel/panic', 'w').write(value)\n"
        "print('got it')"
    ),
    "another root": "import os\nos.chroot('/tmp')\nprint('got it')",
    "a better priority": "import os\nos.nice(-5)\nprint('got it')",
}


@pytest.mark.parametrize("what", REACHES)
def test_what_is_not_the_cells_is_out_of_reach(yard: Process, careless: Careless, what: str) -> None:
    assert careless(REACHES[what]) == "got it\n"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        refused = session.run(REACHES[what])
        assert "got it" not in refused.stdout
        assert refused.error.ename in (
            "PermissionError",
            "FileNotFoundError",
            "OSError",
            "AssertionError",
            "ValueError",
        )


KILL_ALL = """
import os, signal
for name in os.listdir('/proc'):
    if name.isdigit() and int(name) != os.getpid():
        try:
            os.kill(int(name), signal.SIGKILL)
        except PermissionError:
            pass
print('fired')
"""


def test_another_containers_process_cannot_be_killed(yard: Process, careless: Careless, built_image: str) -> None:
    command = ["docker", "run", "--detach", "--rm", "--network=none", built_image, "sleep", "600"]
    container = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    inspect = ["docker", "inspect", "--format={{.State.Pid}}", container]
    pid = subprocess.run(inspect, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    shoot = f"import os\nos.kill({pid}, 9)\nprint('fired')"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        assert session.run(shoot).error.ename == "ProcessLookupError"
        assert Path(f"/proc/{pid}").exists()
    assert careless(shoot) == "fired\n"
    subprocess.run(["docker", "wait", container], capture_output=True, timeout=60, check=False)  # ends with its process


def test_killing_every_process_hurts_its_own_sandbox_alone(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        session.run("x = 1")
        assert session.run(KILL_ALL).stdout == "fired\n"
        assert session.run("x").value == 1  # the agent is the first process there, which nobody inside can kill
        session.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        assert session.run("'a kernel'").value == "a kernel"


TRUSTING = """
import os, socket, threading
os.makedirs('/run/cellyard', exist_ok=True)
server = socket.socket(socket.AF_UNIX)
server.bind('/run/cellyard/agent.sock')
server.listen()
connections = []
def serve():
    while True:
        connections.append(server.accept()[0])
        connections[-1].sendall(b'welcome')
threading.Thread(target=serve, daemon=True).start()
"""
"""A controller that answers whoever comes."""
FORGED = """framing.encode(pb.FromAgent(hello=pb.Hello(protocol=PROTOCOL))) + framing.encode(
    pb.FromAgent(batch=pb.Batch(events=[
        pb.Event(number=1, execution_id='another', ended=pb.ExecutionEnded(outcome=pb.OUTCOME_OK))
    ]))
)"""
SPEAK = """
import socket, struct
from cellyard_proto import PROTOCOL, framing
from cellyard_proto.v1 import link_pb2 as pb
said = []
for attempt in range(20):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(5)
    link.connect('/run/cellyard/agent.sock')
    try:
        link.sendall(MESSAGE)
        said.append(link.recv(1))
    except OSError as error:
        said.append(type(error).__name__)
    link.close()
print(set(said) <= {b'', 'ConnectionResetError', 'BrokenPipeError'})
"""


@pytest.mark.parametrize(
    "message",
    [
        "struct.pack('>I', 2) + b'\\x0a\\x00'",
        "struct.pack('>I', 4) + b'\\x0a\\x02\\x08\\x01'",
        "struct.pack('>I', 2**32 - 1)",
        "b'\\xff' * 100_000",
        "b''.join([struct.pack('>I', 4), b'\\x0a\\x02\\x08\\x01']) * 1000",
        FORGED,
    ],
)
def test_the_agents_place_on_its_link_is_taken(yard: Process, careless: Careless, message: str) -> None:
    """A cell that speaks as its agent is hung up on without a word, and its own output arrives."""
    assert careless(TRUSTING + SPEAK.replace("MESSAGE", message)) == "False\n"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        result = session.run(SPEAK.replace("MESSAGE", message), timeout_secs=100)
        assert result.stdout == "True\n", result.text
        assert session.run("'still here'").value == "still here"


def test_closing_every_descriptor_ends_its_own_kernel_at_worst(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint) as session, unharmed(yard):
        session.run("import os\nos.closerange(0, 1024)", timeout_secs=20)
        assert session.run("'a kernel'", timeout_secs=30).value == "a kernel"


def test_the_network_is_not_there(yard: Process, careless: Careless) -> None:
    names = "import socket\nprint([name for _, name in socket.if_nameindex()] == ['lo'])"
    assert careless(names) == "False\n"
    with cellyard.Session(endpoint=yard.endpoint) as session:
        assert session.run(names).stdout == "True\n"
        for target in ("('172.17.0.1', 22)", "('10.0.0.1', 80)", "('169.254.169.254', 80)", "('8.8.8.8', 53)"):
            refused = session.run(f"import socket\nsocket.create_connection({target}, 5)")
            assert refused.error.ename == "OSError"
            assert "unreachable" in refused.error.evalue
