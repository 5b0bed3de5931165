"""What a fake kernel does with a script: shows, waits, fails, dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cellyard_controller.runtimes.fake.script import Command, parse
from cellyard_proto.v1 import calls_pb2 as calls
from cellyard_proto.v1 import link_pb2 as link
from cellyard_proto.v1 import outputs_pb2 as outputs

T = TypeVar("T")
Show = Callable[[link.Event], None]
Call = Callable[[link.Event], Coroutine[Any, Any, link.CallAnswer]]


class KernelGone(Exception):
    """The script ended its kernel. The message is the reason as the agent tells it."""


class _Interrupted(Exception):
    """The script was interrupted where it waited."""


class Gates:
    """Places where scripts wait for a test, by name. An open gate stays open."""

    def __init__(self) -> None:
        self._open: dict[str, asyncio.Event] = {}
        self._reached: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        """Lets everybody through, now and later."""
        self._open.setdefault(name, asyncio.Event()).set()

    async def wait(self, name: str) -> None:
        """Returns once the gate is open."""
        self._reached.setdefault(name, asyncio.Event()).set()
        await self._open.setdefault(name, asyncio.Event()).wait()

    async def reached(self, name: str) -> None:
        """Returns once a script has come to the gate."""
        await self._reached.setdefault(name, asyncio.Event()).wait()


class Kernel:
    """Runs one script at a time, counting them."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.execution_count = 0
        self._comms: set[str] = set()

    async def run(self, source: str, interrupted: asyncio.Event, show: Show, call: Call) -> link.ExecutionEnded:
        """Runs a source whose start was told. Raises KernelGone where it ends the kernel."""
        ended = link.ExecutionEnded(outcome=link.OUTCOME_OK, execution_count=self.execution_count)
        ended.peak_memory_bytes = 1024 * 1024
        try:
            for command in parse(source):
                if interrupted.is_set():
                    raise _Interrupted
                if command.verb == "error":
                    _raise(show, command.argument(0, "Exception"), command.argument(1))
                    ended.outcome = link.OUTCOME_ERROR
                    return ended
                if command.verb in ("call", "ask", "input"):
                    show(_text("stdout", await _unless(interrupted, _answered(command, call))))
                elif command.verb == "value":
                    ended.value.CopyFrom(self._value(command.argument(0), show))
                else:
                    await self._act(command, interrupted, show)
        except _Interrupted:
            _raise(show, "KeyboardInterrupt", "")
            ended.outcome = link.OUTCOME_ERROR
        return ended

    async def _act(self, command: Command, interrupted: asyncio.Event, show: Show) -> None:
        first, second = command.argument(0), command.argument(1)
        match command.verb:
            case "print":
                show(_text("stdout", f"{first}\n"))
            case "stderr":
                show(_text("stderr", f"{first}\n"))
            case "comm":
                comm = outputs.Comm(comm_id=first, message=outputs.CommMessage(data_json=second))
                if first not in self._comms:
                    comm.open.CopyFrom(outputs.CommOpen(target_name="jupyter.widget", data_json=second))
                    self._comms.add(first)
                show(link.Event(comm=comm))
            case "html":
                shown = outputs.DisplayData(data={"text/html": outputs.MimeValue(text=first)})
                show(link.Event(output=outputs.Output(display_data=shown)))
            case "json":
                shown = outputs.DisplayData(data={"application/json": outputs.MimeValue(json=first)})
                show(link.Event(output=outputs.Output(display_data=shown)))
            case "display":
                shown = outputs.DisplayData(data=_plain(second), display_id=first)
                show(link.Event(output=outputs.Output(display_data=shown)))
            case "update":
                show(link.Event(display_updated=outputs.DisplayUpdated(display_id=first, data=_plain(second))))
            case "clear":
                show(link.Event(clear_output=outputs.ClearOutput(wait=first == "wait")))
            case "flood":
                for number in range(int(first)):
                    show(_text("stdout", f"line {number}\n"))
            case "gate":
                await _unless(interrupted, self._gates.wait(first))
            case "hang":
                never = asyncio.Event()
                await (never.wait() if first == "deaf" else _unless(interrupted, never.wait()))
            case "exit":
                raise KernelGone(f"exit code {first or '0'}")
            case "oom":
                raise KernelGone("oom")

    def _value(self, text: str, show: Show) -> outputs.Value:
        result = outputs.ExecuteResult(data=_plain(text), execution_count=self.execution_count)
        show(link.Event(output=outputs.Output(execute_result=result)))
        try:
            json.loads(text)
        except ValueError:
            return outputs.Value(json=json.dumps(text), is_repr=True)
        return outputs.Value(json=text)


async def _unless(interrupted: asyncio.Event, waiting: Coroutine[Any, Any, T]) -> T:
    """Waits; raises _Interrupted where the interrupt comes first."""
    wait, stop = asyncio.ensure_future(waiting), asyncio.ensure_future(interrupted.wait())
    try:
        done, _ = await asyncio.wait((wait, stop), return_when=asyncio.FIRST_COMPLETED)
    finally:
        wait.cancel()
        stop.cancel()
    if wait not in done:
        raise _Interrupted
    return wait.result()


async def _answered(command: Command, call: Call) -> str:
    """What a script's call got, as a line."""
    if command.verb == "input":
        event = link.Event(input_requested=calls.InputRequested(prompt=command.argument(0)))
    elif command.verb == "ask":
        args, kwargs = json.dumps([command.argument(1)]), command.argument(2, "{}")
        event = link.Event(host_call=calls.HostCall(name=command.argument(0), args_json=args, kwargs_json=kwargs))
    else:
        args = command.argument(1, "[]")
        event = link.Event(host_call=calls.HostCall(name=command.argument(0), args_json=args, kwargs_json="{}"))
    answer = await call(event)
    kind = answer.WhichOneof("answer")
    content = f"{answer.error.name}: {answer.error.message}" if kind == "error" else getattr(answer, kind or "text")
    return f"{(kind or '').removesuffix('_json')} {content}\n"


def _raise(show: Show, name: str, text: str) -> None:
    error = outputs.ErrorOutput(ename=name, evalue=text, traceback=[f"{name}: {text}"])
    show(link.Event(output=outputs.Output(error=error)))


def _text(name: str, text: str) -> link.Event:
    return link.Event(output=outputs.Output(stream=outputs.StreamOutput(name=name, text=text)))


def _plain(text: str) -> dict[str, outputs.MimeValue]:
    return {"text/plain": outputs.MimeValue(text=text)}
