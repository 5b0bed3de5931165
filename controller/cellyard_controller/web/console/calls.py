"""The controller's services for the console: the methods that gRPC has, with the same checks, audit and refusals.

A request is the method's message as protocol buffers write it in JSON, and so is the answer. What a method does is not
written a second time here: a page can do what a client can, and nothing in another way.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from cellyard_controller.api.access import Access, Caller
from cellyard_controller.api.accounting import accounted
from cellyard_controller.api.auditing import Noted
from cellyard_controller.api.executions import Executions
from cellyard_controller.api.kernels import Kernels
from cellyard_controller.api.notebooks import Notebooks
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_proto.v1 import executions_pb2, kernels_pb2, notebooks_pb2


@dataclass(frozen=True, slots=True)
class Method:
    """A method that pages may call."""

    message: type[Message]
    call: Callable[[Message, Caller], Any]


@dataclass(frozen=True, slots=True)
class _Peer:
    address: str

    def peer(self) -> str:
        return self.address


class Calls:
    """What pages may call, and how it is guarded."""

    def __init__(self, access: Access, rooms: Rooms, config: Config) -> None:
        self._access = access
        notebooks, executions = Notebooks(access, rooms, config), Executions(access, rooms, config)
        kernels = Kernels(access, rooms, config)
        unary = {
            notebooks.List: notebooks_pb2.ListNotebooks,
            notebooks.GetCell: notebooks_pb2.GetCellRequest,
            notebooks.CreateCell: notebooks_pb2.CreateCellRequest,
            notebooks.SetSource: notebooks_pb2.SetSourceRequest,
            notebooks.SetCellType: notebooks_pb2.SetCellTypeRequest,
            notebooks.DeleteCell: notebooks_pb2.DeleteCellRequest,
            notebooks.MoveCell: notebooks_pb2.MoveCellRequest,
            notebooks.ClearOutputs: notebooks_pb2.ClearOutputsRequest,
            executions.Enqueue: executions_pb2.Start,
            executions.Get: executions_pb2.GetExecution,
            executions.List: executions_pb2.ListExecutions,
            executions.Cancel: executions_pb2.CancelExecution,
            executions.Answer: executions_pb2.AnswerCall,
            kernels.Interrupt: kernels_pb2.InterruptKernel,
            kernels.Restart: kernels_pb2.RestartKernel,
            kernels.Shutdown: kernels_pb2.ShutdownKernel,
        }
        streams = {notebooks.Watch: notebooks_pb2.WatchNotebook, executions.Attach: executions_pb2.AttachExecution}
        self._unary = {_name(method): Method(message, _bare(method)) for method, message in unary.items()}
        self._streams = {_name(method): Method(message, _bare(method)) for method, message in streams.items()}

    def has(self, name: str) -> bool:
        """Whether there is such a method, like `Notebooks.List`, with one answer."""
        return name in self._unary

    async def one(self, name: str, content: Any, caller: Caller, via: str) -> dict[str, Any]:
        """The answer of a method. Raises Refused, Failure."""
        method, began = self._unary[name], time.monotonic()
        async with self.guarded(name, caller, via) as noted:
            message = _parsed(method.message, content)
            noted.about(message)
            answer: Awaitable[Message] = method.call(message, caller)
            result = await answer
            noted.done(result)
        self._access.calls.answered(name, began)
        return as_json(result)

    async def stream(self, name: str, content: Any, caller: Caller, via: str) -> AsyncGenerator[dict[str, Any], None]:
        """The answers of a method that has any number. Raises Refused, Failure."""
        method = self._streams[name]
        async with self.guarded(name, caller, via):
            items: AsyncIterator[Message] = method.call(_parsed(method.message, content), caller)
            async for item in items:
                yield as_json(item)

    @asynccontextmanager
    async def guarded(self, name: str, caller: Caller, via: str) -> AsyncIterator[Noted]:
        """While the block runs, it is this method that is called. Raises Refused, Failure."""
        noted = Noted(self._access.audit, name, _Peer(caller.address), via=via)
        noted.caller = caller
        async with accounted(self._access, name, noted):
            self._access.admit(caller, name)
            with self._access.arrivals.call(caller.tenant):
                yield noted


def as_json(message: Message) -> dict[str, Any]:
    """A message as JSON, its fields by the names that they have in the protocol."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _parsed(kind: type[Message], content: Any) -> Message:
    try:
        return json_format.ParseDict(content, kind(), max_recursion_depth=20)
    except (json_format.ParseError, RecursionError, TypeError, AttributeError) as bad:
        said = json.dumps(str(bad)[:200])
        raise InvalidRequest(f"the request is no {kind.DESCRIPTOR.name}: {said}") from None


def _name(method: Callable[..., Any]) -> str:
    return method.__qualname__


def _bare(method: Any) -> Callable[[Message, Caller], Any]:
    """The method without what gRPC puts around it."""
    bare = inspect.unwrap(method.__func__)
    return lambda message, caller: bare(method.__self__, message, caller)
