"""The proxy's process: `python -m cellyard_controller.egress CHANNEL CONTROLLER SETTINGS`. Ends with its controller.

CHANNEL is the number of an open socket, CONTROLLER the controller's process id, SETTINGS a JSON object. Here hostile
requests are read: without root where the controller has it, without the controller's environment, files and store.
"""

from __future__ import annotations

import asyncio
import ctypes
import encodings.idna  # noqa: F401  # what is imported late could not be read any more without root
import json
import os
import resource
import signal
import socket
import sys
from typing import Any

import uvloop

from cellyard_controller.egress.channel import Channel
from cellyard_controller.egress.dialling import Dialler
from cellyard_controller.egress.names import AllowList
from cellyard_controller.egress.proxy import Proxy
from cellyard_controller.egress.targets import Denial

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_UNTOLD_MAX = 1000
_TELL_WITHIN = 1.0
_NOFILE = 16_384


def main() -> int:
    """Serves until the controller is gone."""
    channel, controller, settings = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    _keep_only(channel)
    _give_up_rights(settings["uid"])
    if not _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) or os.getppid() != controller:
        return 1
    uvloop.run(serve(socket.socket(fileno=channel), settings["hosts"], settings["connections"]))
    return 0


async def serve(connection: socket.socket, hosts: dict[str, str], connections: int) -> None:
    """Does what the controller says, until it hangs up."""
    channel = Channel(connection)
    untold: asyncio.Queue[tuple[dict[str, Any], asyncio.Event]] = asyncio.Queue(_UNTOLD_MAX)

    async def tell(sandbox: str, denial: Denial) -> None:
        if untold.full():
            return  # the controller does not listen, and has worse to care about
        said = asyncio.Event()
        message = {"denied": sandbox, "host": denial.host, "port": denial.port, "reason": denial.reason}
        untold.put_nowait((message, said))
        try:
            async with asyncio.timeout(_TELL_WITHIN):
                await said.wait()
        except TimeoutError:
            pass

    async def say() -> None:
        while True:
            message, said = await untold.get()
            await channel.send(message)
            said.set()

    dialler = Dialler(hosts)
    proxy = Proxy(dialler, connections, tell)
    saying = asyncio.ensure_future(say())
    try:
        while (heard := await channel.receive()) is not None:
            answer = await _obey(proxy, *heard)
            if answer:
                await untold.put((answer, asyncio.Event()))
    finally:
        saying.cancel()
        channel.close()
        dialler.close()


async def _obey(proxy: Proxy, order: dict[str, Any], carried: socket.socket | None) -> dict[str, Any]:
    match order["do"]:
        case "open" if carried is not None:
            await proxy.open(order["sandbox"], carried, AllowList(order["allow"]))
            return {"opened": order["sandbox"]}
        case "close":
            await proxy.close(order["sandbox"])
        case "ping":
            return {"pong": True}
    return {}


def _keep_only(channel: int) -> None:
    """Closes whatever else the controller may have left open to its children."""
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number > 2 and number != channel:
            try:
                os.close(number)
            except OSError:
                pass  # it was the listing's own


def _give_up_rights(uid: int | None) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name, limit in {"CORE": 0, "FSIZE": 0, "NOFILE": _NOFILE if most < 0 else min(_NOFILE, most)}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> bool:
    return int(ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)) == 0


if __name__ == "__main__":
    sys.exit(main())
