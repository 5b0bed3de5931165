"""A canary: a sandbox like any other, but with a probe in the agent's place, asked what confines it.

It tells over the link, the way an agent would. Who speaks there, the host's kernel says (SO_PEERCRED); so
what the probe says of its rights can be compared with what the host's /proc says of that very process.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from cellyard_controller.runtimes import MIB, Instance, SandboxSpec, Template
from cellyard_controller.runtimes.docker import host
from cellyard_controller.runtimes.docker.host import HostView
from cellyard_controller.runtimes.docker.verdict import ProbeFacts, Sighting, link_sockets

CANARY_UID = 64_999
"""Beyond the users of distributions, within the 65,536 ids that an engine with user namespaces has."""
ANSWER_BOUND = 20.0
"""Seconds from the start of a canary to its answer."""
KILL_BOUND = 5.0
"""Seconds from the order to the end of a process."""
_LOOK_AGAIN = 2.0
_ANSWER_BYTES = 256 * 1024
_FORKS_ABOVE = 8
_MEMORY_ABOVE = 64 * MIB
_MEMORY_TRIED = 2048 * MIB
"""A larger limit is read, not tried: filling it would take too long."""
_ADDRESSES_MAX = 16
_NOWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses of RFC 5737 and RFC 3849: nobody's, but anything with a way out would try."""
_PORT = 9


class CanaryFailed(Exception):
    """The canary told nothing that could be judged. The message says why."""


class CanaryLate(CanaryFailed):
    """It told nothing in time, and had not ended: on a busy machine the next one may."""


class Cage(Protocol):
    """What a canary needs of the runtime."""

    async def start_with(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Starts a sandbox with this command instead of the agent."""

    async def inspect(self, instance_id: str) -> Instance | None:
        """The instance as it stands."""

    async def log_tail(self, instance_id: str) -> str:
        """What it wrote last."""

    async def host_pid(self, instance_id: str) -> int:
        """The number of its first process on the host; 0 where it has none."""

    async def stop(self, instance_id: str) -> None:
        """Ends and removes it."""


async def sight(spec: SandboxSpec, cage: Cage, oci_program: str = "") -> Sighting:
    """Starts a canary, hears it, looks at it from the host and ends it; within about 30 s.

    `oci_program` is the path of the OCI runtime's program that the template names, if it names one.

    Raises CanaryFailed, and RuntimeFailed where the engine fails. Nothing of the canary is left.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as sockets:
        # Each is there as in any sandbox of this template; only the link's is answered.
        listening = {
            name: sockets.enter_context(closing(_listen(spec.link_dir / name))) for name in link_sockets(spec.template)
        }
        listener = listening["agent.sock"]
        instance_id = await cage.start_with(spec, _command(spec.template))
        try:
            with closing(await _accept(listener, instance_id, cage)) as link:
                inside = _facts(await _line(link))
                outside = _host_view(await cage.host_pid(instance_id), link)
                ordered = loop.time()
                await cage.stop(instance_id)
                ended = await _ended(link)
                took = loop.time() - ordered if ended else None
                return Sighting(inside, outside, spec.uid, took, oci_program)
        finally:
            await cage.stop(instance_id)


def out_of_reach() -> list[tuple[str, int]]:
    """Addresses that no sandbox may reach: this machine's own (the engine's bridge too), and the world's."""
    own = []
    for text in (*_own_v4(Path("/proc/net/fib_trie")), *_own_v6(Path("/proc/net/if_inet6"))):
        address = ipaddress.ip_address(text)
        if not (address.is_loopback or address.is_link_local):  # link-local ones would need an interface's name
            own.append(text)
    return [(address, _PORT) for address in (*sorted(set(own))[:_ADDRESSES_MAX], *_NOWHERE)]


def _command(template: Template) -> list[str]:
    source = files("cellyard_controller.runtimes.docker").joinpath("probe.py").read_text()
    tried = template.memory_bytes <= _MEMORY_TRIED
    wanted = {
        "connect": out_of_reach(),
        "memory": template.memory_bytes + _MEMORY_ABOVE if tried else 0,
        "forks": template.pids + _FORKS_ABOVE,
        "kernel": os.uname().release,
    }
    # Without site (-S) nothing that the image runs at an interpreter's start has touched the fresh folders
    # yet.
    return ["python3", "-I", "-S", "-c", source, json.dumps(wanted)]


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o666)  # the canary's user is a stranger here; the folder is what keeps others out
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise CanaryFailed(f"the canary's link {path} cannot be made: {error}") from error
    return listener


async def _accept(listener: socket.socket, instance_id: str, cage: Cage) -> socket.socket:
    loop = asyncio.get_running_loop()
    until = loop.time() + ANSWER_BOUND
    failed: type[CanaryFailed] = CanaryLate
    while loop.time() < until:
        try:
            async with asyncio.timeout(_LOOK_AGAIN):
                link, _ = await loop.sock_accept(listener)
                return link
        except TimeoutError:
            instance = await cage.inspect(instance_id)
            if instance is None or not instance.running:
                failed = CanaryFailed
                break
    said = (await cage.log_tail(instance_id)).strip().rpartition("\n")[2]
    raise failed(
        "the probe did not speak over the link"
        + (f"; it said: {said}" if said else "")
        + ". Does the engine share this machine's file system, and has the image a python3?"
    )


async def _line(link: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    said = bytearray()
    try:
        async with asyncio.timeout(ANSWER_BOUND):
            while not said.endswith(b"\n"):
                part = await loop.sock_recv(link, 65_536)
                said += part
                if not part or len(said) > _ANSWER_BYTES:
                    raise CanaryFailed("the probe's answer was cut off, or had no end")
    except TimeoutError:
        raise CanaryLate(f"the probe did not answer within {ANSWER_BOUND:.0f} s") from None
    return bytes(said)


def _facts(line: bytes) -> ProbeFacts:
    try:
        return ProbeFacts.model_validate_json(line)
    except ValidationError as bad:
        raise CanaryFailed(f"the probe's answer makes no sense: {bad.error_count()} of its facts are wrong") from bad


def _host_view(pid: int, link: socket.socket) -> HostView | None:
    """What the host says of the canary's first process; None where it does not show."""
    peer, _, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    seen = host.look_at(pid, peer)
    return seen if _still_there(link) else None  # it ended, and the number may be another's by now


def _still_there(link: socket.socket) -> bool:
    try:
        return link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


async def _ended(link: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(KILL_BOUND):
            return await loop.sock_recv(link, 1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _own_v4(table: Path) -> list[str]:
    # "|-- 10.0.0.5" and, one line below, "/32 host LOCAL" for an address that is this machine's.
    try:
        return re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", table.read_text())
    except OSError:
        return []


def _own_v6(table: Path) -> list[str]:
    try:
        lines = table.read_text().splitlines()
    except OSError:
        return []
    return [str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines if line]
