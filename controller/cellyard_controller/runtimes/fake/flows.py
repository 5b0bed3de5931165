"""Flows of a fake agent: files and packages in dictionaries, and commands that there are none of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from cellyard_proto.flows import WINDOW, cost, room, split_path
from cellyard_proto.v1 import files_pb2
from cellyard_proto.v1 import link_pb2 as link


@dataclass(slots=True)
class Packages:
    """What Python packages a fake sandbox has."""

    present: dict[str, str] = field(default_factory=lambda: {"numpy": "1.26.4"})
    """Versions by name: what its image has."""
    brought: dict[str, link.BroughtPackage] = field(default_factory=dict)
    """By name."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By path: what came with them."""


@dataclass(slots=True)
class _Flow:
    path: str
    left_in: int = 0
    content: bytearray = field(default_factory=bytearray)
    """Of a write: what has come; of anything else: what is to be sent."""
    credit: int = WINDOW
    writes: bool = False
    bring: link.BringPackages | None = None
    """Whose files are written."""


class Flows:
    """What is open on one connection."""

    def __init__(self, files: dict[str, bytes], packages: Packages, send: Callable[[link.FlowFrame], None]) -> None:
        self._files, self._packages, self._send = files, packages, send
        self._flows: dict[int, _Flow] = {}

    def drop(self) -> None:
        """The connection is gone."""
        self._flows.clear()

    def receive(self, frame: link.FlowFrame) -> None:
        """The controller says something."""
        number, kind = frame.flow, frame.WhichOneof("frame")
        try:
            if kind == "open":
                self._open(number, frame.open)
            flow = self._flows.get(number)
            if flow is None:
                return
            if kind == "content" and flow.writes:
                flow.content += frame.content
                flow.left_in -= len(frame.content)
                self._send(link.FlowFrame(flow=number, credit=cost(frame.content)))
            elif kind == "credit":
                flow.credit += frame.credit
            elif kind == "cancel":
                del self._flows[number]
                return
            self._go_on(number, flow)
        except (ValueError, KeyError) as refused:
            self._flows.pop(number, None)
            missing = isinstance(refused, KeyError)
            error = link.FLOW_ERROR_NOT_FOUND if missing else link.FLOW_ERROR_REFUSED
            message = f"{refused.args[0]!r} not found" if missing else str(refused)
            self._send(link.FlowFrame(flow=number, ended=link.FlowEnded(error=error, message=message)))

    def _open(self, number: int, order: link.OpenFlow) -> None:
        what = order.WhichOneof("what")
        if what == "run" or what is None:
            raise ValueError("a fake sandbox has no programs")
        path = "/".join(split_path(getattr(getattr(order, what), "path", "")))
        flow = _Flow(path)
        opened = link.FlowOpened()
        if what == "bring":
            flow.writes, flow.bring = True, order.bring
        elif what == "survey":
            versions = self._packages.present | {name: each.version for name, each in self._packages.brought.items()}
            for name, version in versions.items():
                told = {"name": name, "version": version, "requires": [], "extras": []}
                flow.content += f"{json.dumps(told)}\n".encode()
        elif what in ("list_brought", "remove_brought"):
            brought, removes = self._packages.brought, what == "remove_brought"
            names = sorted(name for name in brought if not removes or name in order.remove_brought.names)
            flow.content += link.BroughtPackages(packages=[brought[name] for name in names]).SerializeToString()
            for name in names if removes else ():
                del brought[name]
        elif what == "write":
            flow.writes, flow.left_in = True, order.write.size
        elif what == "read":
            flow.content += self._files[path]
            opened.size = len(flow.content)
            if opened.size > order.read.max_bytes:
                raise ValueError(f"{path!r} has {opened.size} bytes; at most {order.read.max_bytes} can be downloaded")
        elif what == "list":
            entries = [
                files_pb2.FileEntry(name=name, kind=files_pb2.FILE_KIND_FILE, size=len(content))
                for name, content in self._files.items()
            ]
            flow.content += files_pb2.FileEntries(entries=entries).SerializeToString()
        else:
            del self._files[path]
        self._flows[number] = flow
        self._send(link.FlowFrame(flow=number, opened=opened))

    def _go_on(self, number: int, flow: _Flow) -> None:
        if flow.bring is not None:
            files = _files(bytes(flow.content))
            if len(files) < flow.bring.files:
                return
            self._packages.files = files | self._packages.files
            for each in flow.bring.packages:
                each.request_id = flow.bring.request_id
                self._packages.brought[each.name] = each
        elif flow.writes:
            if flow.left_in > 0:
                return
            self._files[flow.path] = bytes(flow.content)
        else:
            while flow.content and (size := room(flow.credit)):
                part = bytes(flow.content[:size])
                del flow.content[:size]
                flow.credit -= cost(part)
                self._send(link.FlowFrame(flow=number, content=part))
            if flow.content:
                return
        del self._flows[number]
        self._send(link.FlowFrame(flow=number, ended=link.FlowEnded()))


def _files(content: bytes) -> dict[str, bytes]:
    """The files of packages that have come whole."""
    found = {}
    while len(content) >= 4:
        size = int.from_bytes(content[:4], "big")
        if len(content) < 4 + size:
            break
        header = link.BroughtFile.FromString(content[4 : 4 + size])
        if len(content) < 4 + size + header.size:
            break
        found[header.path] = content[4 + size : 4 + size + header.size]
        content = content[4 + size + header.size :]
    return found
