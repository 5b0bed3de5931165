"""Which comms are open, as front ends ask for them; what is said on them, in both directions."""

from __future__ import annotations

from typing import Any

from cellyard import events
from cellyard.errors import CellyardError
from cellyard.jupyter import messages
from cellyard.jupyter.channels import Channels, Request, log

KINDS = {"comm_open": "open", "comm_msg": "message", "comm_close": "close"}


class Comms:
    """The open comms of one kernel. Belongs to one event loop."""

    def __init__(self) -> None:
        self._targets: dict[str, str] = {}

    def info(self, target: Any) -> dict[str, Any]:
        """The content of a comm_info_reply; `target`: only those of this name."""
        wanted = {
            comm_id: {"target_name": name} for comm_id, name in self._targets.items() if not target or name == target
        }
        return {"status": "ok", "comms": wanted}

    def forget(self) -> None:
        """The kernel that they lived in is gone."""
        self._targets.clear()

    def heard(self, request: Request) -> None:
        """A front end has opened or closed one."""
        comm_id, target = request.content.get("comm_id"), request.content.get("target_name")
        if request.kind == "comm_open" and isinstance(comm_id, str) and isinstance(target, str):
            self._targets[comm_id] = target
        elif request.kind == "comm_close" and isinstance(comm_id, str):
            self._targets.pop(comm_id, None)

    def said(
        self, said: events.CommSaid, channels: Channels, parent: dict[str, Any] | None, requests: dict[str, str]
    ) -> None:
        """The kernel says something: published. A comm that is known is told of as opened where the notebook's watch
        broke meanwhile: then what it holds is news, and nothing else."""
        if said.kind == "open" and said.comm_id in self._targets:
            data = {"method": "update", **said.data}
            said = events.CommSaid(said.comm_id, "message", data, buffers=said.buffers)
        elif said.kind == "open":
            self._targets[said.comm_id] = said.target_name
        elif said.kind == "close":
            self._targets.pop(said.comm_id, None)
        message = messages.comm(said, requests)
        channels.publish(message.kind, message.content, parent, said.metadata, said.buffers)


async def send(session: Any, request: Request) -> None:
    """Gives a front end's message to the kernel. What is none, or is for a kernel that is gone, is dropped."""
    content = request.content
    comm_id, data = content.get("comm_id"), content.get("data", {})
    target = content.get("target_name", "")
    if not isinstance(comm_id, str) or not isinstance(data, dict) or not isinstance(target, str):
        log.warning("a %s that is none is dropped", request.kind)
        return
    try:
        await session.send_comm(
            comm_id,
            data,
            request.buffers,
            kind=KINDS[request.kind],
            target_name=target,
            metadata=request.metadata,
        )
    except CellyardError as refused:
        log.warning("a %s does not reach the kernel: %s", request.kind, refused)
