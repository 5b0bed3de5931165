"""A front end: jupyter_client's manager and client, with waits that end when what is waited for is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

WAIT_S = 60.0

Message = dict[str, Any]


@dataclass
class Ran:
    """What a request brought about, from busy to idle."""

    reply: Message
    iopub: list[Message] = field(default_factory=list)

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = self.reply["content"]
        return content

    @property
    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self.iopub]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The contents of the messages of this kind."""
        return [message["content"] for message in self.iopub if message["msg_type"] == kind]

    @property
    def stdout(self) -> str:
        return "".join(said["text"] for said in self.of("stream") if said["name"] == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(said["text"] for said in self.of("stream") if said["name"] == "stderr")

    @property
    def text(self) -> str:
        """The value, as text."""
        return "".join(result["data"]["text/plain"] for result in self.of("execute_result"))


class FrontEnd:
    """Starts a kernel, or joins one that another front end has started."""

    def __init__(self, kernel_name: str = "", *, of: FrontEnd | None = None, **options: Any) -> None:
        if of is None:
            self.manager = KernelManager(kernel_name=kernel_name, **options)
            self.manager.start_kernel()
            self.client: BlockingKernelClient = self.manager.client()
        else:
            self.manager = of.manager
            self.client = BlockingKernelClient()
            self.client.load_connection_file(of.manager.connection_file)
        self._joined = of is not None
        self._early: list[Message] = []
        self.client.start_channels()
        self.client.wait_for_ready(timeout=WAIT_S)

    def close(self) -> None:
        self.client.stop_channels()
        if not self._joined:
            self.manager.shutdown_kernel(now=True)

    def run(self, code: str, **options: Any) -> Ran:
        """Runs a cell to its end."""
        return self.ended(self.execute(code, **options))

    def execute(self, code: str, *, metadata: dict[str, Any] | None = None, **options: Any) -> str:
        """Asks for a cell to be run; the request's id."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        return self.send("execute_request", {**content, "stop_on_error": True, **options}, metadata=metadata)

    def send(
        self, kind: str, content: dict[str, Any], *, channel: str = "shell", metadata: Any = None, buffers: Any = None
    ) -> str:
        """Sends a message; its id."""
        socket = getattr(self.client, f"{channel}_channel").socket
        sent = self.client.session.send(socket, kind, content, metadata=metadata, buffers=buffers)
        return str(sent["header"]["msg_id"])

    def ended(self, msg_id: str) -> Ran:
        """Waits for the reply, and for everything up to idle."""
        reply = self.reply(msg_id)
        iopub = [self.heard(lambda message: _parent(message) == msg_id)]
        while not _is_idle(iopub[-1]):
            iopub.append(self.heard(lambda message: _parent(message) == msg_id))
        return Ran(reply, iopub)

    def reply(self, msg_id: str, channel: str = "shell") -> Message:
        """Waits for the reply to a request; others are forgotten."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                message: Message = getattr(self.client, f"get_{channel}_msg")(timeout=1)
            except Empty:
                continue
            if _parent(message) == msg_id:
                return message
        raise AssertionError(f"no reply to {msg_id}")

    def heard(self, which: Callable[[Message], bool]) -> Message:
        """Waits for a message on iopub; those before it are kept for later."""
        for message in self._early:
            if which(message):
                self._early.remove(message)
                return message
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            if which(message):
                return message
            self._early.append(message)
        raise AssertionError(f"not heard; what was: {[each['msg_type'] for each in self._early]}")


def of_kind(kind: str, parent: str = "") -> Callable[[Message], bool]:
    """Messages of a kind, and brought about by this request."""
    return lambda message: message["msg_type"] == kind and (not parent or _parent(message) == parent)


def _parent(message: Message) -> str:
    return str(message["parent_header"].get("msg_id", ""))


def _is_idle(message: Message) -> bool:
    return bool(message["msg_type"] == "status" and message["content"]["execution_state"] == "idle")
