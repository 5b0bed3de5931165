"""Nodes: the machines that share a store. For the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cellyard_controller.api.access import Access, Caller, unary
from cellyard_controller.cluster.nodes import NodeView
from cellyard_controller.errors import InvalidRequest
from cellyard_proto.v1 import nodes_pb2 as pb
from cellyard_proto.v1 import nodes_pb2_grpc

_ALONE = "this controller shares its store with no other: it has no nodes to drain"


class Fleet(Protocol):
    """The nodes, as the shared store has them."""

    async def nodes(self) -> Sequence[NodeView]:
        """All of them, by name. Raises StoreFailed."""

    async def drain(self, name: str, *, wanted: bool) -> None:
        """Begins a node's drain, or takes it back. Raises InvalidRequest, StoreFailed."""


class Nodes(nodes_pb2_grpc.NodesServicer):
    """The Nodes service."""

    def __init__(self, access: Access, fleet: Fleet | None) -> None:
        """`fleet`: None where the controller keeps its store for itself."""
        self.access, self._fleet = access, fleet

    @unary
    async def List(self, message: pb.ListNodes, caller: Caller) -> pb.ListNodesResponse:  # noqa: N802
        """All nodes."""
        caller.must_be_operator()
        found = await self._fleet.nodes() if self._fleet is not None else ()
        return pb.ListNodesResponse(nodes=[_node(each) for each in found])

    @unary
    async def Drain(self, message: pb.DrainNode, caller: Caller) -> pb.Node:  # noqa: N802
        """Nothing new goes there."""
        return await self._drain(message.name, caller, wanted=True)

    @unary
    async def Resume(self, message: pb.ResumeNode, caller: Caller) -> pb.Node:  # noqa: N802
        """Takes a drain back."""
        return await self._drain(message.name, caller, wanted=False)

    async def _drain(self, name: str, caller: Caller, *, wanted: bool) -> pb.Node:
        caller.must_be_operator()
        if self._fleet is None:
            raise InvalidRequest(_ALONE)
        await self._fleet.drain(name, wanted=wanted)
        return next(_node(each) for each in await self._fleet.nodes() if each.name == name)


def _node(view: NodeView) -> pb.Node:
    return pb.Node(
        name=view.name,
        endpoint=view.endpoint,
        state=pb.NodeState.Value(f"NODE_STATE_{view.state.upper()}"),
        lease_left_s=view.lease_left_s,
        fence=view.fence,
        notebooks=view.notebooks,
        sandboxes=view.sandboxes,
        sandboxes_max=view.sandboxes_max,
        warm=view.warm,
        waiting=view.waiting,
        this_one=view.this_one,
        failing=view.failing,
    )
