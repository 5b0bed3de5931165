"""Flows of one sandbox: files and commands beside its kernel, streamed over the agent link (link.proto, FlowFrame).

What waits here for a slow client is at most a window a flow and direction. Everything that the agent says is
untrusted: content past its credit, or of a flow's wrong kind, ends the connection.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from cellyard_proto.flows import CHUNK, MAX_FLOWS, WINDOW, cost, room
from cellyard_proto.v1 import files_pb2
from cellyard_proto.v1 import link_pb2 as pb

_ERRORS = {
    pb.FLOW_ERROR_NOT_FOUND: "not_found",
    pb.FLOW_ERROR_REFUSED: "refused",
    pb.FLOW_ERROR_USED_UP: "used_up",
    pb.FLOW_ERROR_FAILED: "failed",
}
_KINDS = {files_pb2.FILE_KIND_FILE: "file", files_pb2.FILE_KIND_FOLDER: "folder", files_pb2.FILE_KIND_LINK: "link"}


class FlowFailed(Exception):
    """The agent says that nothing comes of it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """`not_found`, `refused`, `used_up` or `failed`."""


class FlowBroken(Exception):
    """The connection to the agent ended under it. The agent has undone or killed what it was."""


@dataclass(frozen=True, slots=True)
class WriteFile:
    """A file of this many bytes, which are sent."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file's content. One of more bytes is refused."""

    path: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ListFolder:
    """What lies in a folder."""

    path: str


@dataclass(frozen=True, slots=True)
class RemovePath:
    """A file, a link or an empty folder is removed."""

    path: str


@dataclass(frozen=True, slots=True)
class RunCommand:
    """A command. Output past the limit is discarded."""

    argv: tuple[str, ...]
    timeout_s: float
    max_output: int


@dataclass(frozen=True, slots=True)
class SurveyPackages:
    """What Python packages programs find there, a line of JSON each."""

    timeout_s: float
    max_output: int


@dataclass(frozen=True, slots=True)
class Package:
    """One package that was brought into a sandbox, or is to be."""

    name: str
    """As PEP 503 normalises it."""
    version: str
    request_id: str = ""
    """By which it was asked for."""


@dataclass(frozen=True, slots=True)
class BringPackages:
    """So many files of packages, which are sent; together so many bytes."""

    request_id: str
    packages: tuple[Package, ...]
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class ListBrought:
    """What was brought, as messages of packages."""


@dataclass(frozen=True, slots=True)
class RemoveBrought:
    """Packages that were brought are removed."""

    names: tuple[str, ...]


What = (
    WriteFile
    | ReadFile
    | ListFolder
    | RemovePath
    | RunCommand
    | SurveyPackages
    | BringPackages
    | ListBrought
    | RemoveBrought
)


@dataclass(frozen=True, slots=True)
class Opened:
    """It has begun."""

    size: int
    """Of the file to be read."""
    pid: int
    """Of the command."""


@dataclass(frozen=True, slots=True)
class Content:
    """Some of a file, or of what a command writes."""

    content: bytes
    stderr: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a folder."""

    name: str
    kind: str
    """`file`, `folder`, `link` or `other`."""
    size: int
    modified_at: float


@dataclass(frozen=True, slots=True)
class Done:
    """The end; what follows is of commands."""

    exit_code: int = 0
    signal: int = 0
    timed_out: bool = False
    discarded_bytes: int = 0
    wall_s: float = 0.0


Said = Opened | Content | Done


class Flow:
    """One flow. Used by one task; the link's reader hands in what comes."""

    def __init__(self, number: int, what: What, send: Callable[[pb.FlowFrame], None]) -> None:
        self.number = number
        self.over = False
        self._opened = False
        self._send = send
        self._credit = WINDOW
        self._limit = what.max_bytes if isinstance(what, ReadFile) else None
        self._heard: deque[Said] = deque()
        self._owed = 0  # cost of what came and was not granted again,
        self._read = 0  # and of what is handed out of it
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    async def send(self, content: bytes) -> None:
        """Sends content as the agent has room for it. Raises FlowFailed, FlowBroken.

        A flow that has ended well takes what is sent and forgets it: the command reads no more.
        """
        rest = memoryview(content)
        while rest:
            if self._failure is not None:
                raise self._failure
            await self._wait(lambda: room(self._credit) > 0 or self.over)
            if self.over:
                return
            part = rest[: room(self._credit)]
            self._credit -= cost(part)
            self._send(pb.FlowFrame(flow=self.number, content=bytes(part)))
            rest = rest[len(part) :]

    def end_input(self) -> None:
        """No content follows."""
        if not self.over:
            self._send(pb.FlowFrame(flow=self.number, input_end=pb.FlowInputEnd()))

    async def next(self) -> Said:
        """What the agent says next; the last is Done. Raises FlowFailed, FlowBroken."""
        self._grant()
        await self._wait(lambda: bool(self._heard))
        said = self._heard.popleft()
        if isinstance(said, Content):
            self._read += cost(said.content)
        return said

    async def done(self) -> Done:
        """The end; what comes before it is passed over. Raises FlowFailed, FlowBroken."""
        while not isinstance(said := await self.next(), Done):
            pass
        return said

    def heard(self, frame: pb.FlowFrame) -> None:
        """The agent says something. Raises ValueError for what it may not say."""
        kind = frame.WhichOneof("frame")
        if kind in ("content", "stderr"):
            content = getattr(frame, kind)
            self._owed += cost(content)
            if len(content) > CHUNK or self._owed > WINDOW:
                raise ValueError("content past its credit")
            if self._limit is not None:
                self._limit -= len(content)
                if self._limit < 0:
                    raise ValueError("more content than was asked for")
            self._heard.append(Content(content, stderr=kind == "stderr"))
        elif kind == "credit":
            if not 0 < frame.credit <= WINDOW - self._credit:
                raise ValueError("credit for more than was sent")
            self._credit += frame.credit
        elif kind == "opened" and not self._opened:
            self._opened = True
            self._heard.append(Opened(max(0, frame.opened.size), frame.opened.pid))
        elif kind == "ended":
            self._ended(frame.ended)
        else:
            raise ValueError(f"an unexpected frame of a flow: {kind}")
        self._changed.set()

    def fail(self, failure: Exception) -> None:
        """Nothing more comes of it."""
        self.over = True
        self._failure = self._failure or failure
        self._changed.set()

    def _ended(self, ended: pb.FlowEnded) -> None:
        if ended.error != pb.FLOW_ERROR_UNSPECIFIED:
            self.fail(FlowFailed(_ERRORS.get(ended.error, "failed"), ended.message[:1000]))
            return
        self.over = True
        of = ended.command
        self._heard.append(
            Done(
                exit_code=of.exit_code,
                signal=of.signal,
                timed_out=of.timed_out,
                discarded_bytes=max(0, of.discarded_bytes),
                wall_s=of.wall_s,
            )
        )

    def _grant(self) -> None:
        """What was handed out has been used: there is room for as much again."""
        if self._read and not self.over:
            self._send(pb.FlowFrame(flow=self.number, credit=self._read))
            self._owed -= self._read
            self._read = 0

    async def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()


class Flows:
    """The flows of one sandbox. They end with the connection."""

    def __init__(self, send: Callable[[pb.ToAgent], None], up: Callable[[], bool]) -> None:
        self._send, self._up = send, up
        self._numbers = itertools.count(1)
        self._flows: dict[int, Flow] = {}

    @property
    def full(self) -> bool:
        """No more can be opened at the moment."""
        return len(self._flows) >= MAX_FLOWS

    @asynccontextmanager
    async def open(self, what: What) -> AsyncIterator[Flow]:
        """Begins a flow, which ends with the block. Without a connection it is broken from the start."""
        number = next(self._numbers)
        flow = self._flows[number] = Flow(number, what, lambda frame: self._send(pb.ToAgent(flow=frame)))
        if self._up():
            self._send(pb.ToAgent(flow=pb.FlowFrame(flow=number, open=_order(what))))
        else:
            flow.fail(FlowBroken())
        try:
            yield flow
        finally:
            del self._flows[number]
            if not flow.over:
                self._send(pb.ToAgent(flow=pb.FlowFrame(flow=number, cancel=pb.FlowCancel())))

    def heard(self, frame: pb.FlowFrame) -> None:
        """The agent says something; of a flow that is over it comes late, and is dropped. Raises ValueError."""
        flow = self._flows.get(frame.flow)
        if flow is not None and not flow.over:
            flow.heard(frame)

    def broken(self) -> None:
        """The connection has ended."""
        for flow in self._flows.values():
            flow.fail(FlowBroken())


def entries(content: bytes) -> list[Entry]:
    """The entries in one piece of a folder's list. Raises FlowFailed for what is none."""
    try:
        found = files_pb2.FileEntries.FromString(content)
    except DecodeError as bad:
        raise FlowFailed("failed", f"the sandbox's list cannot be read: {bad}") from None
    return [
        Entry(entry.name[:1024], _KINDS.get(entry.kind, "other"), max(0, entry.size), entry.modified_at)
        for entry in found.entries
    ]


def brought(content: bytes) -> list[Package]:
    """The packages in one piece of what was brought. Raises FlowFailed for what is none."""
    try:
        found = pb.BroughtPackages.FromString(content)
    except DecodeError as bad:
        raise FlowFailed("failed", f"the sandbox's list cannot be read: {bad}") from None
    return [Package(each.name[:256], each.version[:256], each.request_id[:256]) for each in found.packages]


def file_header(path: str, size: int, *, executable: bool, owners: Iterable[int]) -> bytes:
    """What precedes a file of packages."""
    header = pb.BroughtFile(path=path, size=size, executable=executable, owners=owners).SerializeToString()
    return len(header).to_bytes(4, "big") + header


def _order(what: What) -> pb.OpenFlow:
    if isinstance(what, SurveyPackages):
        return pb.OpenFlow(survey=pb.SurveyPackages(timeout_s=what.timeout_s, max_output=what.max_output))
    if isinstance(what, BringPackages):
        packages = [pb.BroughtPackage(name=each.name, version=each.version) for each in what.packages]
        order = pb.BringPackages(request_id=what.request_id, packages=packages, files=what.files, bytes=what.size)
        return pb.OpenFlow(bring=order)
    if isinstance(what, ListBrought):
        return pb.OpenFlow(list_brought=pb.ListBrought())
    if isinstance(what, RemoveBrought):
        return pb.OpenFlow(remove_brought=pb.RemoveBrought(names=what.names))
    if isinstance(what, WriteFile):
        return pb.OpenFlow(write=pb.WriteFile(path=what.path, size=what.size))
    if isinstance(what, ReadFile):
        return pb.OpenFlow(read=pb.ReadFile(path=what.path, max_bytes=what.max_bytes))
    if isinstance(what, ListFolder):
        return pb.OpenFlow(list=pb.ListFolder(path=what.path))
    if isinstance(what, RemovePath):
        return pb.OpenFlow(remove=pb.RemovePath(path=what.path))
    return pb.OpenFlow(run=pb.RunCommand(argv=what.argv, timeout_s=what.timeout_s, max_output=what.max_output))
