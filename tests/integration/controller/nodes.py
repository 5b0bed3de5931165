"""Several controllers on one database, and a table in the test that says which of them has which notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from cellyard_controller.app import Controller
from cellyard_controller.config import Config
from cellyard_controller.errors import Moved, NotOwner
from cellyard_controller.ids import NotebookId, NotebookKey, NotebookRef, TenantName
from cellyard_controller.runtimes.fake import FakeRuntime

from .conftest import NOWHERE, Stubs

SHARED = ("cellyard.sqlite", "seal.key", "blobs")


def ref(notebook_id: str, tenant: str = "local") -> NotebookRef:
    return NotebookRef(TenantName(tenant), NotebookId(notebook_id))


class Table:
    """Whose each notebook is; nobody's becomes whoever's asks first."""

    def __init__(self) -> None:
        self.owners: dict[NotebookRef, str] = {}
        self.endpoints: dict[str, str] = {}
        self.settling: set[NotebookRef] = set()
        """Whose owner cannot be told for the moment."""
        self.handed: list[NotebookKey] = []
        """What was handed over."""

    def give(self, notebook_id: str, node: str) -> None:
        self.owners[ref(notebook_id)] = node


class Said:
    """One node's ownership, by the table. Notes what it was asked."""

    def __init__(self, node: str, table: Table) -> None:
        self.node, self.table = node, table
        self.asked: list[tuple[str, str]] = []
        self.believes: dict[str, str] = {}
        """What this node believes instead of the table."""
        self.hands_over: bool | Exception = True
        """What becomes of handing over."""

    async def own(self, ref: NotebookRef, *, create: bool) -> None:
        self.asked.append(("own", ref.notebook_id))
        if ref in self.table.settling:
            raise Moved(f"the owner of notebook {ref.notebook_id!r} is being found out", retry_after_s=0.5)
        if ref.notebook_id in self.believes:
            owner = self.believes[ref.notebook_id]
        else:
            owner = self.table.owners.setdefault(ref, self.node)
        if owner != self.node:
            raise NotOwner.of(ref.notebook_id, node=owner, endpoint=self.table.endpoints[owner])

    async def give_up(self, ref: NotebookRef) -> None:
        self.asked.append(("give_up", ref.notebook_id))

    async def hand_over(self, ref: NotebookRef, key: NotebookKey, to: str) -> bool:
        self.asked.append(("hand_over", ref.notebook_id))
        if isinstance(self.hands_over, Exception):
            raise self.hands_over
        if self.hands_over:
            self.table.owners[ref] = to
            self.table.handed.append(key)
        return self.hands_over


class Node:
    """A controller, the runtime that is its alone, and what it is told of ownership."""

    def __init__(self, name: str, folder: Path, table: Table, **config: Any) -> None:
        self.name, self.folder = name, folder
        self.runtime = FakeRuntime(name="docker")
        self.owns = Said(name, table)
        self.socket = f"unix:{folder}/{name}.sock"
        given: dict[str, Any] = {
            "data": folder / name,
            "listen": (self.socket,),
            "runtime": ("docker",),
            "pool": {"size": 0},
            "environments": NOWHERE,
            **config,
        }
        made = {"docker": self.runtime}
        self.controller = Controller(Config(**given), lambda _config, _id: made, ownership=self.owns, node=name)
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        await self.controller.start()
        self._channel = grpc.aio.insecure_channel(self.socket)

    @property
    def stubs(self) -> Stubs:
        assert self._channel is not None
        return Stubs(self._channel)

    @property
    def rooms(self) -> Any:
        return self.controller.rooms

    async def vanish(self) -> None:
        """Nobody answers here any more, from one moment to the next, what it has open is cut, and nothing of it is
        written: as of one that was killed, or has no lease."""
        await self.controller._server.grpc.stop(None)
        await self.rooms.disown()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self.runtime.resume_engine()
            await self.controller.stop()


class Nodes:
    """Nodes that share a database: it is the first one's, the others have links to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = Table()
        self.nodes: list[Node] = []

    async def start(self, name: str, *, shares: bool = True, tcp: bool = False, **config: Any) -> Node:
        """One more. Without `shares` it has a database of its own. With `tcp` others are redirected to its port."""
        if self.nodes and shares:
            data = self.folder / name
            data.mkdir(mode=0o700)
            for shared in SHARED:
                (data / shared).symlink_to(self.folder / self.nodes[0].name / shared)
        listen = (f"unix:{self.folder}/{name}.sock", *(("127.0.0.1:0",) if tcp else ()))
        node = Node(name, self.folder, self.table, listen=listen, **config)
        await node.start()
        self.nodes.append(node)
        self.table.endpoints[name] = node.controller.addresses[1] if tcp else node.socket
        return node

    async def move(self, notebook_id: str, source: Node, to: Node) -> None:
        """The notebook is another node's, once the one that had it has written its last."""
        self.table.settling.add(ref(notebook_id))
        await source.rooms.disown([ref(notebook_id)])
        self.table.give(notebook_id, to.name)
        self.table.settling.discard(ref(notebook_id))

    async def close(self) -> None:
        for node in reversed(self.nodes):
            await node.close()
