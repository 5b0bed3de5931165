"""Nodes and their leases in PostgreSQL. Each function is one step of somebody's transaction.

The only clock is the database's, read as the statement runs and not as its transaction began. A lease is a row of
`nodes`: whoever writes as a node locks its row FOR KEY SHARE first, a renewal changes no key and passes by that lock,
and whoever ends the lease takes the row FOR UPDATE, and so waits for what is being written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Float, Row, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert

from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.store.schema import nodes, notebooks

NOW = cast(func.extract("epoch", func.clock_timestamp()), Float)
"""Seconds since the epoch by the database's clock, at the moment at which a row is looked at."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who takes a node's name."""

    name: str
    controller_id: str
    """Of the data folder that the controller has locked: whoever has the same one is its predecessor, and gone."""
    endpoint: str
    """HOST:PORT for clients."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's row, as it was read."""

    name: str
    controller_id: str
    fence: int
    endpoint: str
    state: NodeState
    expires_at: float
    """By the database's clock."""
    left_s: float
    """What was left of its lease, by the same clock; 0 and less: it has run out."""
    report: str
    """What the node said of itself, JSON."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The name is ours."""

    fence: int
    before: Node | None
    """Who had it before."""


@dataclass(frozen=True, slots=True)
class Held:
    """The name is another controller's, whose lease is in force."""

    node: Node


_ALL = (nodes, (nodes.c.expires_at - NOW).label("left_s"))


def take(connection: Connection, me: Identity, lease_s: float, report: str = "{}") -> Taken | Held:
    """Takes a node's name: one that nobody has, whose lease has run out, or that a predecessor of ours had.

    Its fence counts up, so that whatever the one before still sends is refused. What that one had goes over, unless
    the node was taken over meanwhile: then it has nothing any more.
    """
    seen = one(connection, me.name)
    if seen is not None and _is_held(seen, me):  # its lock would be in the way of what that controller writes
        return Held(seen)
    connection.execute(
        insert(nodes)
        .values(name=me.name, controller_id="", fence=0, endpoint="", state=NodeState.LOST, expires_at=0.0, report="")
        .on_conflict_do_nothing()
    )
    before = _node(connection.execute(select(*_ALL).where(nodes.c.name == me.name).with_for_update()).one())
    if _is_held(before, me):
        return Held(before)
    fence = before.fence + 1
    connection.execute(
        update(nodes)
        .where(nodes.c.name == me.name)
        .values(
            controller_id=me.controller_id,
            fence=fence,
            endpoint=me.endpoint,
            state=NodeState.SERVING,
            expires_at=NOW + lease_s,
            report=report,
        )
    )
    if before.state is not NodeState.LOST:
        had = (notebooks.c.owner == me.name) & (notebooks.c.owner_fence == before.fence)
        connection.execute(update(notebooks).where(had).values(owner_fence=fence))
    return Taken(fence, before if before.fence else None)


def renew(connection: Connection, name: str, fence: int, lease_s: float, state: NodeState, report: str) -> bool:
    """Makes the lease last from now on, and says what the node does; False where it is somebody else's.

    One that has run out is renewed too, where nobody took it: a node sends this only while its own clock says that it
    has the lease, and a database's clock that was set forward must not take it away.
    """
    mine = (nodes.c.name == name) & (nodes.c.fence == fence)
    renewed = update(nodes).where(mine).values(expires_at=NOW + lease_s, state=state, report=report)
    done = connection.execute(renewed)
    return bool(done.rowcount)


def leave(connection: Connection, name: str, fence: int, away_s: float) -> None:
    """Lets go of the name: anybody may take it. What the node has waits so long for a successor."""
    connection.execute(select(nodes.c.name).where(nodes.c.name == name).with_for_update())
    mine = (nodes.c.name == name) & (nodes.c.fence == fence)
    connection.execute(update(nodes).where(mine).values(state=NodeState.AWAY, expires_at=NOW + away_s))


def everybody(connection: Connection) -> tuple[Node, ...]:
    """All nodes that there ever were, by name."""
    return tuple(_node(row) for row in connection.execute(select(*_ALL).order_by(nodes.c.name)))


def one(connection: Connection, name: str) -> Node | None:
    """The node of this name."""
    row = connection.execute(select(*_ALL).where(nodes.c.name == name)).first()
    return _node(row) if row else None


def serving(connection: Connection, name: str) -> Node | None:
    """A node that takes notebooks, kept from being taken over until the transaction's end.

    None also where somebody is ending its lease: nobody waits for that.
    """
    row = connection.execute(
        select(*_ALL)
        .where(nodes.c.name == name, nodes.c.state == NodeState.SERVING, nodes.c.expires_at > NOW)
        .with_for_update(read=True, key_share=True, skip_locked=True)
    ).first()
    return _node(row) if row else None


def end(connection: Connection, node: Node) -> bool:
    """Ends the lease of a node that has run out and is still as it was seen; waits for what it is writing.

    False where it was renewed, taken, or taken over meanwhile.
    """
    row = connection.execute(select(*_ALL).where(nodes.c.name == node.name).with_for_update()).first()
    if row is None:
        return False
    now = _node(row)
    if now.fence != node.fence or now.state is NodeState.LOST or now.expires_at != node.expires_at or now.left_s > 0:
        return False
    ended = update(nodes).where(nodes.c.name == node.name)
    connection.execute(ended.values(fence=node.fence + 1, state=NodeState.LOST))
    return True


_GUARD = (
    b"SELECT 1 FROM nodes WHERE name = %(name)s AND fence = %(fence)s"
    b" AND expires_at > extract(epoch FROM clock_timestamp()) FOR KEY SHARE"
)


def holds(connection: Connection, name: str, fence: int) -> bool:
    """Whether the node's lease is in force; if so, it stays so until the transaction's end.

    Each transaction that writes begins with this, so it goes past SQLAlchemy, whose part costs more than the driver's.
    Raises DBAPIError.
    """
    from cellyard_controller.store import batches  # its driver is from an extra

    return batches.ask(connection, _GUARD, {"name": name, "fence": fence}) is not None


def _is_held(node: Node, me: Identity) -> bool:
    gone = node.state in (NodeState.LOST, NodeState.AWAY) or node.controller_id == me.controller_id
    return node.left_s > 0 and not gone


def _node(row: Row[Any]) -> Node:
    return Node(
        name=row.name,
        controller_id=row.controller_id,
        fence=row.fence,
        endpoint=row.endpoint,
        state=NodeState(row.state),
        expires_at=row.expires_at,
        left_s=row.left_s,
        report=row.report,
    )
