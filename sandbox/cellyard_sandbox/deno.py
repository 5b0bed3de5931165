"""A Deno kernel's channels: Jupyter's messages, brought into the shape that JupyterHost needs.

- It listens on TCP alone, so the ports are those of the sandbox's own loopback interface.
- It says that it is idle while what the cell showed is still on its way. So after each cell it is asked to publish a
  mark, behind everything else, and only with that does the cell end.
- It is interrupted by a message, which ends a loop but not an `await`. A SIGINT would end the kernel.
- It does not say why a source cannot be parsed.
- It publishes from several tasks at once, which can tear a large result and with it the connection. That comes back,
  and the cell is told that something is missing.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq

from cellyard_sandbox import values, wire
from cellyard_sandbox.carriers import END_OF_INPUT, OnMessage
from cellyard_sandbox.channels import CONTROL, ZmqChannels
from cellyard_sandbox.deno_pipes import Pipes

_MARK = "cellyard_mark"
_OWN = 'globalThis[Symbol.for("cellyard")]'
_PRELUDE = "prelude"
_ENVIRONMENT = "environment"
_TORN = "[cellyard: the kernel lost a part of this cell's output, which was too large for it]\n"
_AGAIN_S = 0.5  # a mark that was torn on its way, or whose publishing was interrupted
_UNTOLD = "Execution failed"  # all that Deno says of a source that it cannot parse, and of a cell that was interrupted

# As PID 1's children go, a kernel that needs too much memory should be the first to be killed.
_START = 'echo 1000 >/proc/self/oom_score_adj; out=$1; shift; exec "$@" >"$out"'

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[+-][0-9]+)?")
_WORDS = {
    "true": "true",
    "false": "false",
    "null": "null",
    "NaN": '{"$float":"nan"}',
    "Infinity": '{"$float":"inf"}',
    "-Infinity": '{"$float":"-inf"}',
}


@dataclass(slots=True)
class _Run:
    run_id: str
    source: str
    started: bool = False
    interrupted: bool = False
    failed: bool = False
    torn: bool = False
    reply: wire.Message | None = None


class DenoChannels(ZmqChannels):
    """See the module. Belongs to the event loop's thread."""

    def __init__(
        self,
        folder: Path,
        on_shell: OnMessage,
        on_iopub: OnMessage,
        on_stdin: OnMessage,
        on_hang_up: Callable[[], None],
    ) -> None:
        """Raises ValueError where there is no Deno, and OSError. The process alone tells of its end."""
        program = shutil.which("deno")
        if program is None:
            raise ValueError("this sandbox's image has no deno")
        self._ports = _free_ports()
        self._to_shell, self._to_iopub = on_shell, on_iopub
        self._hello: wire.Message | None = None  # what is known of the kernel, kept until it is prepared
        self._prepared = False
        self._run: _Run | None = None
        self._wrote = ""  # the run whose output comes now
        self._interrupts = 0  # asked for and not confirmed
        self._timer: asyncio.TimerHandle | None = None
        super().__init__(folder, self._on_shell, self._on_iopub, on_stdin, self._on_torn)
        self._control = self._channel(zmq.Context.instance(), zmq.DEALER)
        self._read_control = self._reader(self._control, self._on_control)
        self._control.connect(self._at(CONTROL))
        self._read_control()
        self._pipes = Pipes(folder, self._on_written)
        kernel = [program, "jupyter", "--kernel", "--conn", str(folder / "connection.json")]
        self.command = ["/bin/sh", "-c", _START, "deno", str(self._pipes.stdout), *kernel]
        """The Deno kernel that listens there."""

    def connection(self) -> dict[str, str | int]:
        """See ZmqChannels."""
        told = super().connection()
        ports = {name: self._ports[port] for name, port in told.items() if isinstance(port, int)}
        return {**told, **ports, "transport": "tcp", "ip": "127.0.0.1", "kernel_name": "deno"}

    def send(self, request: wire.Request) -> None:
        """See Channels."""
        if request.kind == "execute_request" and request.content.get("store_history"):
            self._pipes.read_rest()  # what earlier cells have left behind is theirs
            self._run = _Run(request.msg_id, request.content["code"])
            self._wrote = request.msg_id
        super().send(request)

    def answer(self, request: wire.Request) -> None:
        """See Channels. Without an answer `prompt()` returns null."""
        if request.content.get("value") == END_OF_INPUT:
            request = replace(request, content={**request.content, "value": None})
        super().answer(request)

    def set_environment(self, env: Mapping[str, str]) -> None:
        """See Channels."""
        self._execute(_ENVIRONMENT, f"{_OWN}.set({json.dumps(dict(env))})")

    def interrupt(self) -> bool:
        """See Channels."""
        run = self._run
        if run is not None and run.reply is None and not self._interrupts:
            run.interrupted = True
            self._interrupts += 1
            self._control.send_multipart(wire.frames(wire.Request("interrupt", "interrupt_request", {})), zmq.NOBLOCK)
            self._read_control()
        return True

    def read_iopub(self) -> None:
        """See Channels."""
        self._pipes.read_rest()
        super().read_iopub()

    def read_rest(self) -> None:
        """See Channels."""
        if self._open and self._prepared:
            self._pipes.read_rest()
        super().read_rest()

    def close(self) -> None:
        """See Channels."""
        if self._open:
            self._stop_timer()
            self._loop.remove_reader(self._control.fileno())
            self._control.close(linger=0)
            self._pipes.close()
        super().close()

    # What comes

    def _at(self, channel: int) -> str:
        return f"tcp://127.0.0.1:{self._ports[channel]}"

    def _on_shell(self, message: wire.Message) -> None:
        run = self._run
        if message.kind == "kernel_info_reply" and not self._prepared:
            if self._hello is None:
                self._hello = message
                prelude = Path(__file__).with_name("deno_prelude.js").read_text("utf-8").rstrip()
                self._execute(_PRELUDE, f"{prelude}({json.dumps(str(self._pipes.frames))})")
        elif message.parent == _PRELUDE and self._hello is not None:
            if _content(message).get("status") == "ok":
                self._prepared = True
                self._to_shell(self._hello)
        elif message.kind == "execute_reply" and run is not None and message.parent == run.run_id:
            if run.reply is None:
                run.reply = message
                self._mark(run)
            elif self._timer is None:  # the mark was published, or its publishing was interrupted
                self._mark_again(run)
        else:
            self._to_shell(message)

    def _on_control(self, message: wire.Message) -> None:
        if message.kind == "interrupt_reply" and self._interrupts:
            self._interrupts -= 1
            if self._run is not None and self._run.reply is not None:
                self._mark(self._run)

    def _on_iopub(self, message: wire.Message) -> None:
        run = self._run
        if message.parent in (_PRELUDE, _ENVIRONMENT):
            return
        if message.kind == _MARK:
            if run is not None and message.parent == run.run_id and run.reply is not None:
                self._over(run, run.reply, str(_content(message).get("about", "")))
            return
        if run is not None and message.parent == run.run_id:
            if message.kind in ("status", "execute_input"):
                self._on_state(run, message)
                return
            if message.kind == "error":
                run.failed = True
            if message.kind == "execute_result":
                message = _with_value(message)
        if message.kind != "status":
            self._pipes.read_rest()  # what was printed before this
        self._to_iopub(message)

    def _on_state(self, run: _Run, message: wire.Message) -> None:
        """Each of them once: publishing the mark is a run of the same id."""
        if message.kind == "execute_input" and not run.started:
            run.started = True
            self._to_iopub(wire.Message("status", run.run_id, b'{"execution_state":"busy"}'))
            self._to_iopub(message)

    def _on_torn(self) -> None:
        self.hung_up = False
        if self._run is not None:
            self._run.torn = True

    def _on_written(self, kind: str, content: bytes) -> None:
        self._to_iopub(wire.Message(kind, self._wrote, content))

    # The end of a run

    def _mark(self, run: _Run) -> None:
        """Asks for the mark, unless an interrupt is under way, which would hit it."""
        self._stop_timer()
        if self._interrupts or run.reply is None:
            return
        reply = _content(run.reply)
        untold = reply.get("evalue") == _UNTOLD and not run.failed and not run.interrupted
        self._execute(run.run_id, f"await {_OWN}.explain({json.dumps(run.source)})" if untold else f"{_OWN}.mark()")

    def _mark_again(self, run: _Run) -> None:
        def again() -> None:
            self._timer = None
            if self._run is run:
                self._mark(run)

        self._timer = self._loop.call_later(_AGAIN_S, again)

    def _over(self, run: _Run, reply: wire.Message, why: str) -> None:
        self._stop_timer()
        self._pipes.read_rest()
        if run.torn:
            self._on_written("stream", json.dumps({"name": "stderr", "text": _TORN}).encode())
        content = _content(reply)
        if content.get("status") == "error" and not run.failed:
            content.update(_untold_error(run, why))
            reply = wire.Message(reply.kind, reply.parent, json.dumps(content).encode())
        self._run = None
        self._to_iopub(wire.Message("status", run.run_id, b'{"execution_state":"idle"}'))
        self._to_shell(reply)

    def _execute(self, msg_id: str, code: str) -> None:
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False}
        self.send(wire.Request(msg_id, "execute_request", content))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _untold_error(run: _Run, why: str) -> dict[str, Any]:
    """The error of a cell that failed without one."""
    if run.interrupted:
        says = "the cell was interrupted"
        return {"ename": "Interrupted", "evalue": says, "traceback": [f"Interrupted: {says}"]}
    lines = [line for line in why.removeprefix("SyntaxError: ").splitlines() if "at data:application" not in line]
    place = re.search(r":(\d+):\d+$", why)
    if not lines or place is None or int(place[1]) > len(run.source.splitlines()):
        lines = ["the cell cannot be parsed: does it end too early?"]
    return {"ename": "SyntaxError", "evalue": lines[0], "traceback": [f"SyntaxError: {lines[0]}", *lines[1:]]}


def _with_value(message: wire.Message) -> wire.Message:
    """A result with its value as data, which Deno gives as text: what is no plain value is its text."""
    content = _content(message)
    data = content.get("data")
    text = data.get("text/plain") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(text, str):
        return message
    encoded = _WORDS.get(text) or (text if _NUMBER.fullmatch(text) else _text_of(text))
    if encoded is not None:
        data[values.MIME] = {"json": encoded, "is_repr": False}
    else:
        cut = text if len(text) <= values.MAX_REPR else text[: values.MAX_REPR] + "…"
        data[values.MIME] = {"json": json.dumps(cut), "is_repr": True}
    return wire.Message(message.kind, message.parent, json.dumps(content).encode(), message.raw_metadata)


def _text_of(text: str) -> str | None:
    """The JSON of a string as Deno shows it; None for anything else, and one with escapes that JSON has not."""
    if len(text) > values.MAX_BYTES or text[:1] != '"':
        return None
    try:
        return json.dumps(json.loads(text))
    except (ValueError, RecursionError):
        return None


def _free_ports() -> dict[int, int]:
    """A port of the loopback interface for each channel. Nothing else runs there while a kernel starts."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    try:
        return {channel: each.getsockname()[1] for channel, each in enumerate(taken, start=1)}
    finally:
        for each in taken:
            each.close()


def _content(message: wire.Message) -> dict[str, Any]:
    try:
        return message.content()
    except wire.NotAMessage:
        return {}
