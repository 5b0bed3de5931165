"""A live replica that is nothing but automerge and the stream: what a client of another make would be."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from automerge import core

from cellyard_proto.document import sync
from cellyard_proto.v1 import notebooks_pb2 as nb

_Str = core.ScalarType.Str
POSITIONS = "abcdefghijklmnopqrstuvwxyz"


class RawReplica:
    """One replica; `open` and `cut` its stream as often as you like."""

    def __init__(self, stubs: Any, notebook_id: str = "nb", **metadata: str) -> None:
        self.stubs, self.notebook_id, self.metadata = stubs, notebook_id, tuple(metadata.items())
        self.document = core.Document()
        self.actor_id = b""
        self.begun = 0
        """How often it was told to begin."""
        self._state = core.SyncState()
        self._call: Any = None

    async def open(self) -> RawReplica:
        """Opens the stream, and begins."""
        self._call = self.stubs.notebooks.Sync(metadata=self.metadata)
        await self._call.write(
            nb.SyncFromClient(open=nb.SyncOpen(notebook_id=self.notebook_id, actor_id=self.actor_id))
        )
        await self.take()
        await self.send()
        return self

    async def cut(self) -> None:
        """The connection is gone."""
        self._call.cancel()
        with_status = await self._call.code()
        assert with_status is grpc.StatusCode.CANCELLED

    async def take(self) -> None:
        """Takes one message of the controller. Raises AioRpcError where it refused something."""
        message = await self._call.read()
        if message is grpc.aio.EOF:
            await self._raise()
        if message.WhichOneof("message") == "opened":
            self.actor_id = message.opened.actor_id
            self._state = core.SyncState()
            self.begun += 1
            if self.begun == 1:
                self.document.set_actor(self.actor_id)
            elif self._call is not None:
                await self.send()
        else:
            self.their_heads = sync.envelope(message.sync).heads
            self.document.receive_sync_message(self._state, core.Message.decode(message.sync))

    async def send(self) -> None:
        """Says what there is to say."""
        message = self.document.generate_sync_message(self._state)
        if message is not None:
            await self.send_bytes(message.encode())

    async def send_bytes(self, message: bytes) -> None:
        """Says this."""
        try:
            await self._call.write(nb.SyncFromClient(sync=message))
        except (grpc.aio.UsageError, asyncio.InvalidStateError):
            await self._raise()

    async def settle(self) -> None:
        """Talks until both have the same."""
        self.their_heads: list[bytes] = []
        await self.send()
        while not self.their_heads or sorted(self.their_heads) != sorted(self.document.get_heads()):
            await self.take()
            await self.send()

    async def refusal(self) -> grpc.aio.AioRpcError:
        """Why the stream was ended."""
        try:
            while True:
                await self.take()
                await self.send()
        except grpc.aio.AioRpcError as refused:
            return refused

    async def _raise(self) -> None:
        raise grpc.aio.AioRpcError(
            await self._call.code(),
            await self._call.initial_metadata(),
            await self._call.trailing_metadata(),
            await self._call.details(),
        )

    # The document

    def cells(self) -> dict[str, str]:
        """Sources by cell id, in order."""
        found = []
        cells = self._id(core.ROOT, "cells")
        for name in self.document.keys(cells):
            cell = self._id(cells, name)
            source = self.document.get(cell, "source")
            text = self.document.text(source[1]) if source[0] == core.ObjType.Text else source[0][1]
            found.append((self.document.get(cell, "position")[0][1], name, text))
        return {name: text for _, name, text in sorted(found)}

    def create(self, name: str, text: str = "", *, value: str | None = None) -> None:
        """Adds a cell, whose source is Text, or one value."""
        values = {"type": "code", "position": f"a0V{name}V"}
        with self.document.transaction() as change:
            cell = change.put_object(self._id(core.ROOT, "cells"), name, core.ObjType.Map)
            for key, put in values.items():
                change.put(cell, key, _Str, put)
            change.put_object(cell, "metadata", core.ObjType.Map)
            if value is not None:
                change.put(cell, "source", _Str, value)
            else:
                source = change.put_object(cell, "source", core.ObjType.Text)
                for at, character in enumerate(text):
                    change.insert(source, at, _Str, character)

    def insert(self, name: str, at: int, text: str) -> None:
        """Types into a cell."""
        with self.document.transaction() as change:
            for offset, character in enumerate(text):
                change.insert(self.source_id(name), at + offset, _Str, character)

    def delete(self, name: str) -> None:
        """Removes a cell."""
        with self.document.transaction() as change:
            change.delete(self._id(core.ROOT, "cells"), name)

    def source_id(self, name: str) -> bytes:
        """The Text of a cell."""
        return self._id(self._id(self._id(core.ROOT, "cells"), name), "source")

    def _id(self, parent: bytes, key: str) -> bytes:
        found = self.document.get(parent, key)
        assert found is not None, key
        return found[1]
