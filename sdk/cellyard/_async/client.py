"""What is there on a controller, apart from any one notebook's session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import aclosing

from cellyard import _io_async, _requests, _translate
from cellyard._async import blobs
from cellyard._async.tenants import AsyncTenantCalls
from cellyard._async.transport import Connection
from cellyard.info import (
    NodeInfo,
    NotebookInfo,
    PoolInfo,
    SandboxInfo,
    ServerInfo,
    node_info,
    notebook_info,
    pool_info,
    sandbox_info,
    server_info,
)
from cellyard.results import Capability, ExecutionResult
from cellyard_proto.v1 import executions_pb2, nodes_pb2, notebooks_pb2, sandboxes_pb2


class AsyncClient(AsyncTenantCalls):
    """Lists, shows, stops and deletes what a controller keeps for the caller.

    Endpoint, token and tls are found as for a session. Every call connects where needed, is healed for 30 s when
    the connection breaks, and raises ControllerUnavailable where nobody answers. What is about tenants is the
    operator's, apart from `tenant` and `usage` of the caller itself: others are refused with PermissionDenied.
    """

    async def server(self, *, start: bool = True) -> ServerInfo:
        """The controller's word about itself. `start` allows to start the user's own where it does not run."""
        hello = await self._transport.connect(start=start)
        return server_info(self._transport.endpoint.name, hello)

    async def list_notebooks(
        self, limit: int = 1000, after: str | None = None, labels: Mapping[str, str | None] | None = None
    ) -> list[NotebookInfo]:
        """Notebooks by id, at most `limit`; with `after`, those whose id sorts after it.

        `labels`: only those that have all of these; None as a value stands for any.
        """
        request = notebooks_pb2.ListNotebooks(
            limit=_requests.count("limit", limit),
            after_notebook_id="" if after is None else _requests.named("after", after),
            labels=_requests.labels(labels, values=False),
        )
        answer = await self._call(lambda s: s.notebooks.List, request)
        return [notebook_info(found) for found in answer.notebooks]

    async def set_labels(
        self, notebook_id: str, labels: Mapping[str, str] | None = None, *, remove: Collection[str] = ()
    ) -> dict[str, str]:
        """Sets and removes labels of a notebook, the others stay; returns them all."""
        request = notebooks_pb2.SetLabelsRequest(
            notebook_id=_requests.named("notebook_id", notebook_id),
            request_id=_requests.request_id(),
            labels=_requests.labels(labels),
            remove_keys=_requests.words("remove", remove),
        )
        return dict((await self._call(lambda s: s.notebooks.SetLabels, request)).labels)

    async def delete_notebook(self, notebook_id: str) -> None:
        """Ends a notebook's kernel and removes its document, executions and outputs. Raises NotebookNotFound."""
        request = notebooks_pb2.DeleteNotebook(
            notebook_id=_requests.named("notebook_id", notebook_id), request_id=_requests.request_id()
        )
        await self._call(lambda s: s.notebooks.Delete, request)

    async def list_sandboxes(self) -> list[SandboxInfo]:
        """The sandboxes that exist, oldest first."""
        answer = await self._call(lambda s: s.sandboxes.List, sandboxes_pb2.ListSandboxes())
        return [sandbox_info(found) for found in answer.sandboxes]

    def watch_sandboxes(self) -> AsyncIterator[SandboxInfo]:
        """The sandboxes that exist, and from then on each one whenever it has changed; the last time it is "ended".

        A tenant sees its own, from their claim on; the operator all. It goes on until the loop is left. After a broken
        connection, which is healed for 30 s, those that exist come again.
        """
        return self._watch_sandboxes()

    async def _watch_sandboxes(self) -> AsyncGenerator[SandboxInfo, None]:
        await self._connected()

        def ask(connection: Connection) -> _io_async.Call[sandboxes_pb2.SandboxEvent]:
            return connection.stubs.sandboxes.Watch(sandboxes_pb2.WatchSandboxes(), metadata=connection.metadata)

        async with aclosing(self._transport.stream(ask, lambda _: False)) as told:
            async for event in told:
                if event.HasField("sandbox"):
                    yield sandbox_info(event.sandbox)

    async def list_pools(self) -> list[PoolInfo]:
        """The pools of warm sandboxes, and how well they do. For the operator; raises PermissionDenied."""
        answer = await self._call(lambda s: s.sandboxes.ListPools, sandboxes_pb2.ListPoolsRequest())
        return [pool_info(found) for found in answer.pools]

    async def list_nodes(self) -> list[NodeInfo]:
        """The machines that share the controller's store; none where it keeps it for itself. For the operator.

        Raises PermissionDenied.
        """
        answer = await self._call(lambda s: s.nodes.List, nodes_pb2.ListNodes())
        return [node_info(found) for found in answer.nodes]

    async def drain_node(self, name: str) -> NodeInfo:
        """Gives a node no notebook any more; those at rest leave it, and those that run come to their end there.

        Any node's operator may ask for any node. Raises InvalidRequest where there is no such one.
        """
        request = nodes_pb2.DrainNode(name=_requests.named("name", name))
        return node_info(await self._call(lambda s: s.nodes.Drain, request))

    async def resume_node(self, name: str) -> NodeInfo:
        """Takes a drain back."""
        request = nodes_pb2.ResumeNode(name=_requests.named("name", name))
        return node_info(await self._call(lambda s: s.nodes.Resume, request))

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Ends a sandbox and the kernel in it; one that is not there is no error."""
        request = sandboxes_pb2.StopSandbox(sandbox_id=_requests.named("sandbox_id", sandbox_id))
        await self._call(lambda s: s.sandboxes.Stop, request)

    async def capabilities(self, runtime: str | None = None, template: str | None = None) -> list[Capability]:
        """What a runtime's sandboxes have been shown to do; None means the controller's default."""
        request = sandboxes_pb2.GetCapabilitiesRequest(
            runtime="" if runtime is None else _requests.named("runtime", runtime),
            template="" if template is None else _requests.named("template", template),
        )
        answer = await self._call(lambda s: s.sandboxes.GetCapabilities, request)
        return [_translate.capability(found) for found in answer.capabilities]

    async def list_executions(
        self, notebook_id: str, limit: int = 100, before: str | None = None
    ) -> list[ExecutionResult]:
        """A notebook's executions, newest first, without outputs; with `before`, those accepted before it.

        Raises NotebookNotFound.
        """
        request = executions_pb2.ListExecutions(
            notebook_id=_requests.named("notebook_id", notebook_id),
            limit=_requests.count("limit", limit),
            before_execution_id="" if before is None else _requests.named("before", before),
        )
        answer = await self._call(lambda s: s.executions.List, request)
        return [_translate.execution(found) for found in answer.executions]

    async def get_execution(self, notebook_id: str, execution_id: str) -> ExecutionResult:
        """One execution with its outputs. Raises ExecutionNotFound."""
        request = executions_pb2.GetExecution(
            notebook_id=_requests.named("notebook_id", notebook_id),
            execution_id=_requests.named("execution_id", execution_id),
        )
        await self._connected()
        return _translate.execution(await blobs.call(self._transport, notebook_id, lambda s: s.executions.Get, request))
