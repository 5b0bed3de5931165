"""The proxy seen from the controller: sandboxes' sockets and lists, and a process that is kept while they need it.

The listening sockets are the controller's own and are handed over: when the process is replaced, connections wait in
them, and no path changes. Nothing here waits for the proxy without a bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from cellyard_controller.config import NetworkConfig
from cellyard_controller.egress.channel import Channel
from cellyard_controller.egress.targets import Denial

SOCKET_NAME = "proxy.sock"
OPEN_WITHIN = 20.0
PING_EVERY = 5.0
SILENT_FOR = 20.0
"""Seconds."""
PROXY_UID = 64_998
"""Where the controller is root: nobody's, beyond the users of distributions."""
_BACKLOG = 128
_PAUSES = (0.1, 1.0, 5.0)
_WELL_AFTER = 60.0
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
_NO_SEARCH = {"LOCALDOMAIN": "."}
"""A name is what it says: the resolver appends none of this machine's own domains."""

log = structlog.get_logger()


class EgressFailed(Exception):
    """A sandbox could not be given its way out. The message says why."""


class _Lost(Exception):
    """The process is gone, or as good as gone."""


@dataclass(eq=False)
class _Site:
    """One sandbox with a list."""

    listening: socket.socket
    path: Path
    allow: tuple[str, ...]
    served: asyncio.Event = field(default_factory=asyncio.Event)


class Egress:
    """The way out of all sandboxes that have a list. `run` keeps the proxy."""

    def __init__(self, config: NetworkConfig, denied: Callable[[str, Denial], None]) -> None:
        """`denied` is called with a sandbox's id and what was refused to it."""
        self._config, self._denied = config, denied
        self._sites: dict[str, _Site] = {}
        self._changed = asyncio.Event()
        self._heard_at = 0.0
        self.pid: int | None = None
        """The process that serves now."""
        self.starts = 0
        """How often one was started."""

    async def open(self, sandbox: str, folder: Path, uid: int, allow: Sequence[str]) -> None:
        """Gives a sandbox its socket in this folder, and its list; returns when it is served.

        Raises EgressFailed; the socket is there then all the same, and served as soon as that is possible.
        """
        self.close(sandbox)
        path = folder / SOCKET_NAME
        try:
            listening = _listen(path, uid)
        except OSError as error:
            raise EgressFailed(f"the socket {path} cannot be made: {error}") from error
        site = self._sites[sandbox] = _Site(listening, path, tuple(allow))
        self._changed.set()
        try:
            async with asyncio.timeout(OPEN_WITHIN):
                await site.served.wait()
        except TimeoutError:
            raise EgressFailed(f"the proxy for network access did not start within {OPEN_WITHIN:g} s") from None

    def close(self, sandbox: str) -> None:
        """Takes a sandbox its way out; without one it does nothing."""
        site = self._sites.pop(sandbox, None)
        if site is not None:
            site.listening.close()
            site.path.unlink(missing_ok=True)
            self._changed.set()

    async def run(self) -> None:
        """Keeps a proxy from the first sandbox on that needs one, until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        try:
            while True:
                while not self._sites:
                    await self._changed.wait()
                    self._changed.clear()
                started = loop.time()
                try:
                    await self._one_life()
                except* (OSError, ValueError, _Lost) as lost:
                    log.warning("the proxy for network access was lost", why=str(lost.exceptions[0]))
                failures = 0 if loop.time() - started > _WELL_AFTER else failures + 1
                await asyncio.sleep(_PAUSES[min(failures, len(_PAUSES)) - 1] if failures else 0)
        finally:
            for site in self._sites.values():
                site.listening.close()  # the paths stay: claimed sandboxes may be kept for a successor

    async def _one_life(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = Channel(ours)
        try:
            process = await self._start(theirs)
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        self.pid, self._heard_at = process.pid, asyncio.get_running_loop().time()
        self.starts += 1
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._listen(channel))
                both.create_task(self._say(channel))
        finally:
            self.pid = None
            channel.close()
            try:
                process.kill()
            except ProcessLookupError:
                pass
            await process.wait()

    async def _start(self, theirs: socket.socket) -> asyncio.subprocess.Process:
        settings = {
            "hosts": self._config.hosts,
            "connections": self._config.connections,
            "uid": PROXY_UID if os.geteuid() == 0 else None,
        }
        command = [sys.executable, "-P", "-m", "cellyard_controller.egress", str(theirs.fileno()), str(os.getpid())]
        return await asyncio.create_subprocess_exec(
            *command,
            json.dumps(settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            cwd="/",
            env=_NO_SEARCH | {name: os.environ[name] for name in _INHERITED if name in os.environ},
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )

    async def _listen(self, channel: Channel) -> None:
        while (heard := await channel.receive()) is not None:
            self._heard_at = asyncio.get_running_loop().time()
            self._hear(heard[0])
        raise _Lost("it ended")

    def _hear(self, said: dict[str, Any]) -> None:
        if "opened" in said and (site := self._sites.get(said["opened"])) is not None:
            site.served.set()
        elif "denied" in said and said["denied"] in self._sites:
            self._denied(said["denied"], Denial(str(said["host"])[:256], int(said["port"]), str(said["reason"])[:64]))

    async def _say(self, channel: Channel) -> None:
        told: dict[str, _Site] = {}
        while True:
            self._changed.clear()
            for sandbox in [name for name, site in told.items() if self._sites.get(name) is not site]:
                del told[sandbox]
                await self._send(channel, {"do": "close", "sandbox": sandbox})
            for sandbox, site in list(self._sites.items()):
                if sandbox not in told and site.listening.fileno() >= 0:
                    told[sandbox] = site
                    order = {"do": "open", "sandbox": sandbox, "allow": site.allow}
                    await self._send(channel, order, site.listening)
            await self._send(channel, {"do": "ping"})
            try:
                async with asyncio.timeout(PING_EVERY):
                    await self._changed.wait()
            except TimeoutError:
                silent = asyncio.get_running_loop().time() - self._heard_at
                if silent > SILENT_FOR:
                    raise _Lost(f"it has not answered for {silent:.0f} s") from None

    async def _send(self, channel: Channel, order: dict[str, Any], carried: socket.socket | None = None) -> None:
        try:
            async with asyncio.timeout(SILENT_FOR):
                await channel.send(order, carried)
        except TimeoutError:
            raise _Lost("it does not read") from None


def _listen(path: Path, uid: int) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listening.setblocking(False)
        listening.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, uid, uid)
            path.chmod(0o600)
        else:
            path.chmod(0o666)  # the folder above is 0700: only the sandbox's own mount reaches it
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
