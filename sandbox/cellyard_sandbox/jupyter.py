"""A kernel host for whatever speaks Jupyter's messages: the Python kernel over a socket, any kernel over ZeroMQ."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellyard_proto.v1 import link_pb2, manner_pb2, outputs_pb2
from cellyard_sandbox import comms, host_frames, messages, wire
from cellyard_sandbox.asks import Asks
from cellyard_sandbox.carriers import END_OF_INPUT, Channels, OpenChannels
from cellyard_sandbox.files import empty
from cellyard_sandbox.host_socket import HostSocket
from cellyard_sandbox.kernel_host import HostListener, Question, RunEnd, StartFailed, Usage
from cellyard_sandbox.kernel_process import KernelProcess
from cellyard_sandbox.processes import Processes

START_TIMEOUT_S = 60.0
_GREET_AGAIN_S = 0.2
_SETTLE_S = 10.0  # between the first and the second sign that a run is over
_LAST_WORDS_S = 0.5  # for what a dead kernel has left in its channels
_DEAF_S = 1.0  # a kernel that closed its channels lives this long

_MAX_REPLY = 1024 * 1024  # bytes of what an end brings along for a front end


@dataclass(slots=True)
class _Run:
    run_id: str
    manner: manner_pb2.Manner
    busy: bool = False
    idle: bool = False
    failed: bool = False
    execution_count: int = 0
    value: outputs_pb2.Value | None = None
    reply: Mapping[str, Any] | None = None


class JupyterHost:
    """A KernelHost (see there); `kernel_died` and the rest of the listener's calls come from the event loop."""

    def __init__(
        self, listener: HostListener, processes: Processes, scratch: Path, home: Path, open_channels: OpenChannels
    ) -> None:
        """`scratch`: a folder, in which each kernel gets one for its sockets. `home`: the kernel's HOME."""
        self._open_channels = open_channels
        self._listener = listener
        self._processes = processes
        self._scratch = scratch
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._folder: Path | None = None
        self._channels: Channels | None = None
        self._process: KernelProcess | None = None
        self._starting: asyncio.Future[None] | None = None
        self._iopub_heard = False
        self._answered = False
        self._held = False
        self._run: _Run | None = None
        self._question: object | None = None  # which input() waits, if one does
        self._asks = Asks(self._send)
        self._openers = comms.Openers()
        self._host_socket: HostSocket | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def start(self, env: Mapping[str, str]) -> None:
        """See KernelHost."""
        self._starting = self._loop.create_future()
        self._iopub_heard = self._answered = False
        try:
            await self._begin(env)
            self._greet()
            await asyncio.wait_for(self._starting, START_TIMEOUT_S)
        except TimeoutError:
            await self.stop()
            raise StartFailed(f"the kernel did not answer within {START_TIMEOUT_S:.0f} s") from None
        except (OSError, ValueError) as failed:
            await self.stop()
            raise StartFailed(str(failed)) from None
        except BaseException:
            await self.stop()
            raise
        finally:
            self._starting = None
            self._stop_timer("greet")

    async def stop(self) -> None:
        """See KernelHost."""
        self._let_go()
        await self._processes.kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            await asyncio.to_thread(_remove, folder)

    def set_environment(self, env: Mapping[str, str]) -> None:
        """See KernelHost."""
        if self._channels is not None:
            self._channels.set_environment(env)

    def run(self, run_id: str, source: str, *, allow_stdin: bool, namespaces: bool, manner: manner_pb2.Manner) -> None:
        """See KernelHost."""
        if self._run is not None or self._channels is None or self._process is None:
            raise RuntimeError("a run is under way, or no kernel is there")
        self._run = _Run(run_id, manner)
        self._process.run_starts()
        content = {
            "code": source,
            "silent": manner.silent,
            "store_history": not manner.silent and (manner.store_history or not manner.HasField("store_history")),
            "user_expressions": dict(manner.user_expressions),
            "allow_stdin": allow_stdin,
            # Else the kernel refuses what comes soon after an error. What depends on what is not its to say.
            "stop_on_error": False,
            # Of this agent's own kernels.
            "namespaces": namespaces,
            "payload": manner.payload,
        }
        self._send(wire.Request(run_id, "execute_request", content))

    def interrupt(self, run_id: str) -> None:
        """See KernelHost."""
        run = self._run
        if run is None or run.run_id != run_id or not run.busy or run.idle or run.reply is not None:
            return
        self.release()
        self._question = None  # it ends, or is asked again; a late answer must not be that of another one
        if self._process is not None and self._channels is not None and not self._channels.interrupt():
            self._process.interrupt()

    def ask(self, order: link_pb2.AskKernel, answer: Callable[[link_pb2.Reply], None]) -> None:
        """See KernelHost."""
        self._asks.ask(order, answer, idle=self._run is None)
        if self._channels is None:
            self._asks.kernel_gone()

    def send_comm(self, comm: outputs_pb2.Comm) -> None:
        """See KernelHost. It belongs to the run that opened the comm, else to that under way."""
        run_id = self._openers.run_of(comm.comm_id)
        if run_id is None:
            run_id = self._run.run_id if self._run is not None else ""
        self._send(comms.to_kernel(comm, run_id))

    def hold(self) -> None:
        """See KernelHost."""
        if self._process is not None and not self._held:
            self._held = True
            self._processes.signal(signal.SIGSTOP)

    def release(self) -> None:
        """See KernelHost."""
        if self._held:
            self._held = False
            self._processes.signal(signal.SIGCONT)

    def usage(self) -> Usage:
        """See KernelHost."""
        return self._process.usage() if self._process is not None else Usage(0.0, 0)

    # Start and end of a kernel

    async def _begin(self, env: Mapping[str, str]) -> None:
        folder = self._folder = self._scratch / f"cellyard-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        self._channels = channels = self._open_channels(
            folder, self._on_shell, self._on_iopub, self._on_stdin, self._on_hang_up
        )
        self._host_socket = HostSocket(self._listener)
        await self._host_socket.listen(folder / "h")
        user = os.environ.get("USER") or "sandbox"  # a container's uid has no entry in passwd
        own = {**os.environ, "HOME": str(self._home), "USER": user, "LOGNAME": user}
        theirs = {**own, **env, host_frames.SOCKET_VARIABLE: str(folder / "h")}
        self._process = KernelProcess(
            self._processes, channels.command, theirs, self._on_exit, channels.inherited, channels.program
        )
        channels.started()

    def _let_go(self) -> None:
        for name in list(self._timers):
            self._stop_timer(name)
        self._run = self._question = None
        self._held = False
        self._openers = comms.Openers()
        if self._host_socket is not None:
            self._host_socket.close()
            self._host_socket = None
        if self._channels is not None:
            self._channels.close()
            self._channels = None
        if self._process is not None:
            self._process.close()
            self._process = None
        self._asks.kernel_gone()

    def _greet(self) -> None:
        """Asks whether the kernel is there, until it has answered on both channels."""
        if self._channels is not None:
            self._send(wire.Request("hello", "kernel_info_request", {}))
            self._start_timer("greet", _GREET_AGAIN_S, self._greet)

    def _maybe_ready(self) -> None:
        if self._starting is not None and not self._starting.done() and self._answered and self._iopub_heard:
            self._starting.set_result(None)

    def _on_exit(self) -> None:
        if not self._iopub_heard or (self._channels is not None and self._channels.hung_up):
            self._bury()
        else:
            # A process that it forked may hold the channels open, so there is a bound.
            self._start_timer("bury", _LAST_WORDS_S, self._bury)

    def _on_hang_up(self) -> None:
        process = self._process
        if process is None:
            return
        if process.alive:
            self._start_timer("deaf", _DEAF_S, lambda: process.kill("channels closed"))
        else:
            self._bury()

    def _bury(self) -> None:
        """The kernel has ended, and everything that it had sent is there to be read."""
        if self._channels is None or self._process is None:
            return
        self._channels.read_rest()
        if self._run is not None:
            for words in self._channels.last_words():
                self._show(self._run.run_id, words)
        reason, said = self._process.end_reason, self._process.said()
        died_starting = self._starting
        if died_starting is None:
            self._listener.kernel_died(reason)  # asks for the usage of what ran
            self._let_go()
        else:
            self._let_go()
            if not died_starting.done():
                died_starting.set_exception(StartFailed(f"{reason}: {said}" if said else reason))

    # Messages

    def _send(self, request: wire.Request) -> None:
        if self._channels is not None:
            self._channels.send(request)

    def _on_shell(self, message: wire.Message) -> None:
        if self._asks.answered(message):
            return
        if message.kind == "kernel_info_reply":
            self._asks.info = _content(message)
            self._answered = True
            self._maybe_ready()
            return
        run = self._run
        if message.kind == "execute_reply" and run is not None and run.run_id == message.parent:
            run.reply = _content(message)
            self._maybe_over(run)

    def _on_iopub(self, message: wire.Message) -> None:
        if not self._iopub_heard:
            self._iopub_heard = True
            self._maybe_ready()
        run_id, from_front_end = comms.run_of(message.parent)
        run = self._run if self._run is not None and self._run.run_id == run_id and not from_front_end else None
        if message.kind in ("status", "execute_input"):
            if run is not None:
                self._on_state(run, message)
        elif message.kind == "stream":
            if not self._listener.run_unread(run_id):
                self._show(run_id, messages.stream(_content(message)))
        elif message.kind in messages.DISPLAYS:
            self._on_display(run, run_id, message)
        elif message.kind in comms.KINDS:
            comm = comms.from_kernel(message, _content(message))
            if comm is not None:
                self._openers.note(run_id, comm)
                self._listener.comm_sent(run_id, comm)

    def _on_stdin(self, message: wire.Message) -> None:
        if message.kind != "input_request" or self._channels is None:
            return
        self._channels.read_iopub()  # what was printed before the question comes before it
        question = self._question = object()

        def answer(given: link_pb2.CallAnswer) -> None:
            if self._question is question and self._channels is not None:
                self._question = None
                text = given.text if given.HasField("text") else END_OF_INPUT
                self._channels.answer(wire.Request("answer", "input_reply", {"value": text, "status": "ok"}))

        content = _content(message)
        prompt = content.get("prompt")
        asked = Question(prompt if isinstance(prompt, str) else "", content.get("password") is True)
        self._listener.input_asked(message.parent, asked, answer)

    def _on_state(self, run: _Run, message: wire.Message) -> None:
        content = _content(message)
        if message.kind == "execute_input":
            run.execution_count = messages.count(content.get("execution_count"))
            self._listener.run_started(run.run_id, run.execution_count)
        elif content.get("execution_state") == "busy":
            run.busy = True
            if run.manner.silent:  # it is not told that it is counted
                self._listener.run_started(run.run_id, 0)
        elif content.get("execution_state") == "idle" and run.busy:
            run.idle = True
            self._maybe_over(run)

    def _on_display(self, run: _Run | None, run_id: str, message: wire.Message) -> None:
        content = _content(message)
        if run is not None:
            if message.kind == "execute_result":
                run.value = messages.take_value(content)
            elif message.kind == "error":
                run.failed = True
        self._show(run_id, messages.display(message.kind, content))

    def _show(self, run_id: str, item: messages.Item | None) -> None:
        if item is not None:
            self._listener.run_shown(run_id, item)

    # The end of a run

    def _maybe_over(self, run: _Run) -> None:
        if run.idle and run.reply is not None:
            self._over(run)
        elif "settle" not in self._timers:
            self._start_timer("settle", _SETTLE_S, lambda: self._settle(run))

    def _settle(self, run: _Run) -> None:
        """One sign of the end was lost, which only code that tampers with its kernel can bring about."""
        if self._channels is None:
            return
        if self._held or self._loop.time() - self._channels.heard_at < _SETTLE_S:
            self._start_timer("settle", _SETTLE_S, lambda: self._settle(run))
        else:
            self._over(run)

    def _over(self, run: _Run) -> None:
        self._run = None
        self._stop_timer("settle")
        reply = run.reply
        if reply is None:
            reply = {"ename": "NoAnswer", "evalue": "the kernel became idle without an answer"}
        ok = reply.get("status") == "ok"
        if not ok and not run.failed:
            # What failed was not shown: an interrupt came while the kernel was about to, or see _settle.
            self._show(run.run_id, messages.display("error", dict(reply)))
        if self._process is not None:
            execution_count = messages.count(reply.get("execution_count")) or run.execution_count
            self._asks.kernel_idle()
            end = RunEnd(ok, execution_count, run.value, _asked_for(run.manner, reply))
            self._listener.run_ended(run.run_id, end)
            self._process.run_ended()

    def _start_timer(self, name: str, delay_s: float, call: Any) -> None:
        self._stop_timer(name)
        self._timers[name] = self._loop.call_later(delay_s, self._timer_ended, name, call)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _timer_ended(self, name: str, call: Any) -> None:
        del self._timers[name]
        call()


def _content(message: wire.Message) -> dict[str, Any]:
    try:
        return message.content()
    except wire.NotAMessage:
        return {}


def _asked_for(manner: manner_pb2.Manner, reply: Mapping[str, Any]) -> str:
    """What of the reply somebody wants, as JSON; "" for nothing, and where it is too much."""
    wanted: dict[str, Any] = {}
    expressions, payload = reply.get("user_expressions"), reply.get("payload")
    if manner.user_expressions and isinstance(expressions, dict):
        wanted["user_expressions"] = expressions
    if manner.payload and isinstance(payload, list) and payload:
        wanted["payload"] = payload
    text = json.dumps(wanted, separators=(",", ":")) if wanted else ""
    return text if len(text) <= _MAX_REPLY else ""


def _remove(folder: Path) -> None:
    empty(str(folder))
    try:
        folder.rmdir()
    except OSError:
        pass  # code in the sandbox has removed it, or put something there that cannot be
