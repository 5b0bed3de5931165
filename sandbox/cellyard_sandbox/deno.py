"""A Deno kernel's channels: Jupyter's messages, brought into the shape that JupyterHost needs.

- It listens on TCP alone, so the ports are those of the sandbox's own loopback interface.
- What cells write comes through a pipe of ours (deno_prelude.js), whole and in order. Deno publishes it from several
  tasks at once, so that a large output was torn, and one that comes after the cell's end is the rule.
- It is interrupted by a message, which ends a loop but not an `await`. A SIGINT would end the kernel.
- It does not say why a source cannot be parsed, so it is asked.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import zmq

from cellyard_sandbox import wire
from cellyard_sandbox.carriers import END_OF_INPUT, OnMessage
from cellyard_sandbox.cgroups import ControlGroup
from cellyard_sandbox.channels import CONTROL, ZmqChannels
from cellyard_sandbox.deno_pipe import Pipe

_WHY = "cellyard_why"
_OWN = 'globalThis[Symbol.for("cellyard")]'
_PRELUDE = "prelude"
_ENVIRONMENT = "environment"
_UNTOLD = "Execution failed"  # all that Deno says of a source that it cannot parse, and of a cell that was interrupted

# The kernel is killed before the agent where memory runs out, and that alone bounds it: V8's own limit, 4 GiB or
# less, would end it with a signal that says nothing.
_START = 'echo 1000 >/proc/self/oom_score_adj; export DENO_V8_FLAGS="${DENO_V8_FLAGS-$1}"; shift; exec "$@"'


@dataclass(slots=True)
class _Run:
    run_id: str
    source: str
    started: bool = False
    interrupted: bool = False
    failed: bool = False
    idle: bool = False
    reply: wire.Message | None = None
    asked: bool = False
    why: str = ""


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
        """Raises ValueError where there is no Deno, and OSError."""
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
        super().__init__(folder, self._on_shell, self._on_iopub, on_stdin, on_hang_up)
        self._control = self._channel(zmq.Context.instance(), zmq.DEALER)
        self._read_control = self._reader(self._control, self._on_control)
        self._control.connect(self._at(CONTROL))
        self._read_control()
        self._frames = folder / "frames"
        self._pipe = Pipe(self._frames, self._on_written)
        kernel = [program, "jupyter", "--kernel", "--conn", str(folder / "connection.json")]
        self.program = "deno"
        """See Channels."""
        self.command = ["/bin/sh", "-c", _START, "deno", _heap(), *kernel]
        """The Deno kernel that listens there."""

    def connection(self) -> dict[str, str | int]:
        """See ZmqChannels."""
        told = super().connection()
        ports = {name: self._ports[port] for name, port in told.items() if isinstance(port, int)}
        return {**told, **ports, "transport": "tcp", "ip": "127.0.0.1", "kernel_name": "deno"}

    def send(self, request: wire.Request) -> None:
        """See Channels."""
        if request.kind == "execute_request":
            self._pipe.read_rest()  # what earlier cells have left behind is theirs
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
        self._pipe.read_rest()
        super().read_iopub()

    def read_rest(self) -> None:
        """See Channels."""
        if self._open and self._prepared:
            self._pipe.read_rest()
        super().read_rest()

    def close(self) -> None:
        """See Channels."""
        if self._open:
            self._loop.remove_reader(self._control.fileno())
            self._control.close(linger=0)
            self._pipe.close()
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
                self._execute(_PRELUDE, f"{prelude}({json.dumps(str(self._frames))})")
        elif message.parent == _PRELUDE and self._hello is not None:
            if _content(message).get("status") == "ok":
                self._prepared = True
                self._to_shell(self._hello)
        elif run is not None and message.kind == "execute_reply" and message.parent == run.run_id:
            run.reply = message
            self._maybe_over(run)
        elif run is not None and message.kind == "execute_reply" and message.parent == _after(run):
            self._over(run)
        else:
            self._to_shell(message)

    def _on_control(self, message: wire.Message) -> None:
        if message.kind == "interrupt_reply" and self._interrupts:
            self._interrupts -= 1
            if self._run is not None:
                self._maybe_over(self._run)

    def _on_iopub(self, message: wire.Message) -> None:
        run = self._run
        if message.parent in (_PRELUDE, _ENVIRONMENT) or (run is not None and message.parent == _after(run)):
            return
        if message.kind != "status":
            self._pipe.read_rest()  # what was written before this
        if run is not None and message.parent == run.run_id:
            if message.kind == "error":
                run.failed = True
            elif message.kind == "status" and _content(message).get("execution_state") == "idle":
                run.idle = True
                self._maybe_over(run)
                return
        self._to_iopub(message)

    def _on_written(self, kind: str, content: bytes) -> None:
        message = wire.Message(kind, self._wrote, content)
        if kind == _WHY:
            if self._run is not None:
                self._run.why = str(_content(message).get("why", ""))
        else:
            self._to_iopub(message)

    # The end of a run

    def _maybe_over(self, run: _Run) -> None:
        """The kernel is done with it, and no interrupt is under way, which would hit what comes next."""
        if not run.idle or run.reply is None or self._interrupts or run.asked:
            return
        if run.interrupted:
            run.asked = True
            self._execute(_after(run), "undefined")  # an interrupt that came too late hits this
        elif not run.failed and _content(run.reply).get("evalue") == _UNTOLD:
            run.asked = True
            self._execute(_after(run), f"await {_OWN}.explain({json.dumps(run.source)})")
        else:
            self._over(run)

    def _over(self, run: _Run) -> None:
        self._pipe.read_rest()
        reply = run.reply
        assert reply is not None, "it is over once it was answered"
        content = _content(reply)
        if content.get("status") == "error" and not run.failed:
            content.update(_untold_error(run))
            reply = wire.Message(reply.kind, reply.parent, json.dumps(content).encode())
        self._run = None
        self._to_iopub(wire.Message("status", run.run_id, b'{"execution_state":"idle"}'))
        self._to_shell(reply)

    def _execute(self, msg_id: str, code: str) -> None:
        content = {"code": code, "silent": True, "store_history": False, "allow_stdin": False}
        super().send(wire.Request(msg_id, "execute_request", content))


def _after(run: _Run) -> str:
    return f"after {run.run_id}"


def _untold_error(run: _Run) -> dict[str, Any]:
    """The error of a cell that failed without one."""
    if run.interrupted:
        says = "the cell was interrupted"
        return {"ename": "Interrupted", "evalue": says, "traceback": [f"Interrupted: {says}"]}
    lines = [line for line in run.why.removeprefix("SyntaxError: ").splitlines() if line.strip()]
    if not lines:
        lines = ["the cell cannot be parsed: does it end too early?"]
    return {"ename": "SyntaxError", "evalue": lines[0], "traceback": [f"SyntaxError: {lines[0]}", *lines[1:]]}


def _heap() -> str:
    """V8's flag that lets its heap grow to the container's limit; "" without one."""
    limit = ControlGroup().sample({}).memory.limit
    return f"--max-old-space-size={limit // (1024 * 1024)}" if limit else ""


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
