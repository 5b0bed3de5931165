"""Flows in the agent: what is done beside the kernel, a file or a command each, its content streamed over the link.

Content is made only when the link can take it and the controller has given credit for it, so a slow client costs a
chunk, and flows take turns with each other and with events.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable

from cellyard_proto.flows import MAX_FLOWS, WINDOW, cost, room
from cellyard_proto.v1 import link_pb2

log = logging.getLogger("cellyard.agent")

_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_REASONS = {
    errno.ELOOP: "it is a link, or one leads there",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.EISDIR: "it is a folder",
    errno.ENOTEMPTY: "the folder is not empty",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENXIO: "it is a special file",
    errno.EFBIG: "it is larger than a file in the sandbox may be",
    errno.EWOULDBLOCK: "somebody in the sandbox holds it",
    errno.ENAMETOOLONG: "a name is too long",
    errno.E2BIG: "the arguments are too long",
    errno.ENOEXEC: "it is no program",
    errno.ENOSPC: "no space or no more files are left there",
}


class FlowRefused(Exception):
    """A flow comes to nothing."""

    def __init__(self, error: link_pb2.FlowError.ValueType, message: str) -> None:
        super().__init__(message)
        self.error = error


def refused(message: str) -> FlowRefused:
    """What was asked for cannot be, as things are."""
    return FlowRefused(link_pb2.FLOW_ERROR_REFUSED, message)


def because(what: str, failed: OSError) -> FlowRefused:
    """The same, for what the system says of a path or a program."""
    if failed.errno == errno.ENOENT:
        return FlowRefused(link_pb2.FLOW_ERROR_NOT_FOUND, f"{what} not found")
    message = f"{what}: {_REASONS.get(failed.errno or 0, failed.strerror or str(failed))}"
    if failed.errno in _USED_UP:
        return FlowRefused(link_pb2.FLOW_ERROR_USED_UP, message)
    known = failed.errno in _REASONS
    return FlowRefused(link_pb2.FLOW_ERROR_REFUSED if known else link_pb2.FLOW_ERROR_FAILED, message)


class Work:
    """What one flow does. Its constructor begins it, or raises FlowRefused."""

    opened = link_pb2.FlowOpened()
    ended: link_pb2.FlowEnded | None = None
    """Set once nothing more comes."""

    def take(self, content: bytes) -> int:
        """Content has come. Returns the credit to give for it, 0 where that is told later (Waker.credit)."""
        raise refused("no content belongs here")

    def input_ended(self) -> None:
        """No more content comes."""

    def give(self, room: int) -> link_pb2.FlowFrame | None:
        """The next content, at most so many bytes (and at most CHUNK); None where there is none now."""
        return None

    def close(self) -> None:
        """It is over: done, refused, or wanted by nobody. What is half done is undone."""


class Waker:
    """How work tells that there is something to send, from outside of its own methods."""

    def __init__(self, on_ready: Callable[[], None], on_credit: Callable[[int], None]) -> None:
        self.ready = on_ready
        """`give` has something, or `ended` is set."""
        self.credit = on_credit
        """Content that cost this is used up: there is room for as much again."""


Begin = Callable[[link_pb2.OpenFlow, Waker], Work]
"""Begins the work that is asked for. Raises FlowRefused."""


class _Flow:
    def __init__(self) -> None:
        self.work: Work | None = None
        self.credit = WINDOW
        self.said: deque[link_pb2.FlowFrame] = deque()
        self.over = False


class Flows:
    """All flows of the agent, on one connection. Belongs to the event loop's thread."""

    def __init__(self, begin: Begin, on_ready: Callable[[], None]) -> None:
        """`on_ready` is called when `next_frame` may have something that it had not."""
        self._begin = begin
        self._on_ready = on_ready
        self._flows: dict[int, _Flow] = {}
        self._turns: deque[int] = deque()

    def receive(self, frame: link_pb2.FlowFrame) -> None:
        """The controller says something. What is about a flow that is over is late, and dropped."""
        kind = frame.WhichOneof("frame")
        if kind == "open":
            self._open(frame.flow, frame.open)
        flow = self._flows.get(frame.flow)
        if flow is None or flow.over or flow.work is None:
            return
        try:
            if kind == "content":
                self._grant(flow, flow.work.take(frame.content))
            elif kind == "credit":
                flow.credit += frame.credit
            elif kind == "input_end":
                flow.work.input_ended()
        except FlowRefused as refusal:
            self._refuse(flow, refusal)
        if kind == "cancel":
            flow.over = True
            flow.said.clear()
            self._forget(frame.flow)
        self._on_ready()

    def next_frame(self) -> link_pb2.FromAgent | None:
        """The next frame to send, each flow in its turn; None where no flow has any."""
        for _ in range(len(self._turns)):
            number = self._turns[0]
            self._turns.rotate(-1)
            frame = self._next_of(self._flows[number])
            if frame is not None:
                frame.flow = number
                if frame.HasField("ended"):
                    self._forget(number)
                return link_pb2.FromAgent(flow=frame)
        return None

    def drop(self) -> None:
        """The connection is gone, and all flows with it."""
        for number in list(self._flows):
            self._forget(number)

    def _open(self, number: int, order: link_pb2.OpenFlow) -> None:
        if number in self._flows:
            log.warning("flow %d is opened twice", number)
            return
        flow = self._flows[number] = _Flow()
        self._turns.append(number)
        try:
            if len(self._flows) > MAX_FLOWS:
                raise FlowRefused(link_pb2.FLOW_ERROR_USED_UP, f"more than {MAX_FLOWS} at a time")
            flow.work = self._begin(order, Waker(self._on_ready, lambda credit: self._granted(flow, credit)))
        except FlowRefused as refusal:
            self._refuse(flow, refusal)
        else:
            flow.said.append(link_pb2.FlowFrame(opened=flow.work.opened))
        self._on_ready()

    def _granted(self, flow: _Flow, credit: int) -> None:
        self._grant(flow, credit)
        self._on_ready()

    def _grant(self, flow: _Flow, credit: int) -> None:
        if credit and not flow.over:
            flow.said.append(link_pb2.FlowFrame(credit=credit))

    def _refuse(self, flow: _Flow, refusal: FlowRefused) -> None:
        flow.over = True
        flow.said.clear()
        flow.said.append(link_pb2.FlowFrame(ended=link_pb2.FlowEnded(error=refusal.error, message=str(refusal)[:1000])))

    def _next_of(self, flow: _Flow) -> link_pb2.FlowFrame | None:
        if flow.said:
            return flow.said.popleft()
        if flow.over or flow.work is None:
            return None
        try:
            size = room(flow.credit)
            frame = flow.work.give(size) if size else None
        except FlowRefused as refusal:
            self._refuse(flow, refusal)
            return flow.said.popleft()
        if frame is not None:
            flow.credit -= cost(frame.content or frame.stderr)
        elif flow.work.ended is not None:
            flow.over = True
            frame = link_pb2.FlowFrame(ended=flow.work.ended)
        return frame

    def _forget(self, number: int) -> None:
        flow = self._flows.pop(number)
        self._turns.remove(number)
        if flow.work is not None:
            flow.work.close()
