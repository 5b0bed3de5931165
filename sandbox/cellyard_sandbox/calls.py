"""Calls of the code that wait for their answer: host calls and questions for input.

Each gets exactly one answer: that of the controller, or, where its execution ends before, that nobody is there. One
whose caller has gone gets none. Pure: who asks and how answers travel is the business of the kernel's host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cellyard_proto.v1 import calls_pb2, link_pb2
from cellyard_sandbox.kernel_host import Answer, HostCall, Question
from cellyard_sandbox.outbox import Outbox
from cellyard_sandbox.text import cut

_PROMPT = 64 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Running:
    """The execution that the kernel has."""

    execution_id: str
    started: bool
    """It was told that this one has started."""


@dataclass(slots=True)
class _Open:
    execution_id: str
    event: link_pb2.Event | None  # not told yet
    answer: Answer
    is_input: bool


class Calls:
    """Owns what is open. Its events go into the outbox."""

    def __init__(self, outbox: Outbox, running: Callable[[], Running | None]) -> None:
        self._outbox = outbox
        self._running = running
        self._made = 0
        self._open: dict[str, _Open] = {}

    @property
    def open(self) -> list[link_pb2.OpenCall]:
        """What the controller was told of and has not answered."""
        return [
            link_pb2.OpenCall(execution_id=waiting.execution_id, call_id=call_id)
            for call_id, waiting in self._open.items()
            if waiting.event is None
        ]

    def host_called(self, call: HostCall, answer: Answer) -> str:
        """See HostListener. A call belongs to the execution that runs, whoever in the kernel makes it."""
        running = self._running()
        if running is None:
            answer(_nobody("no cell runs that could call it"))
            return ""
        event = calls_pb2.HostCall(name=call.name, args_json=call.args_json, kwargs_json=call.kwargs_json)
        return self._ask(running, link_pb2.Event(host_call=event), answer)

    def input_asked(self, execution_id: str, question: Question, answer: Answer) -> str:
        """See HostListener. Returns the call's id, "" where it is answered already."""
        running = self._running()
        if running is None or running.execution_id != execution_id:
            answer(_nobody("the cell has ended"))
            return ""
        for call_id in [call_id for call_id, waiting in self._open.items() if waiting.is_input]:
            self._close(call_id, "the cell has asked again")
        event = calls_pb2.InputRequested(prompt=cut(question.prompt, _PROMPT), password=question.password)
        return self._ask(running, link_pb2.Event(input_requested=event), answer, is_input=True)

    def dropped(self, call_id: str) -> None:
        """Whoever made this call waits no more."""
        self._open.pop(call_id, None)

    def answered(self, order: link_pb2.CallAnswer) -> None:
        """The controller's answer. One to a call that is not open changes nothing."""
        waiting = self._open.pop(order.call_id, None)
        if waiting is not None:
            waiting.answer(order)

    def execution_started(self, execution_id: str) -> None:
        """The controller was told of the start; so it may be told of calls, which can be seen before it."""
        for call_id, waiting in self._open.items():
            if waiting.execution_id == execution_id:
                self._tell(call_id, waiting)

    def execution_ended(self, execution_id: str) -> None:
        """Nobody answers calls of this execution any more."""
        for call_id in [call_id for call_id, waiting in self._open.items() if waiting.execution_id == execution_id]:
            self._close(call_id, "the cell that called it has ended")

    def kernel_gone(self) -> None:
        """Nobody waits any more."""
        for call_id in list(self._open):
            self._close(call_id, "the kernel has ended")

    def _ask(self, running: Running, event: link_pb2.Event, answer: Answer, *, is_input: bool = False) -> str:
        self._made += 1
        call_id = f"call-{self._made}"
        waiting = self._open[call_id] = _Open(running.execution_id, event, answer, is_input)
        if running.started:
            self._tell(call_id, waiting)
        return call_id

    def _tell(self, call_id: str, waiting: _Open) -> None:
        event, waiting.event = waiting.event, None
        if event is not None:
            (event.host_call if event.HasField("host_call") else event.input_requested).call_id = call_id
            self._outbox.stage(waiting.execution_id, event, event.ByteSize())
            self._outbox.seal()  # the code waits

    def _close(self, call_id: str, why: str) -> None:
        self._open.pop(call_id).answer(_nobody(why))


def _nobody(why: str) -> link_pb2.CallAnswer:
    return link_pb2.CallAnswer(unavailable=why)
