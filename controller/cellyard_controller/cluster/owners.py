"""Who has which notebook, in PostgreSQL. Each function is one step of somebody's transaction.

A notebook is had by the node that `owner` names, while `owner_fence` is that node's fence. A node that was taken over
has another fence: it has nothing any more, whatever the rows of notebooks say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from hashlib import blake2b
from typing import Any

from sqlalchemy import ColumnElement, Connection, exists, func, or_, select, true, tuple_, update

from cellyard_controller.clock import steady
from cellyard_controller.cluster import handed_over, leases
from cellyard_controller.cluster.leases import NOW, Node
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.executions.model import State
from cellyard_controller.ids import NotebookId, NotebookKey, NotebookRef, TenantName
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.store.schema import executions, nodes, notebooks, sandboxes


class Hold(StrEnum):
    """Who has a notebook, as one node sees it."""

    NOBODY = "nobody"
    HERE = "here"
    THERE = "there"
    IN_DOUBT = "in_doubt"
    """Another node had it, whose controller does not hold its lease any more; nobody has taken over from it yet."""


@dataclass(frozen=True, slots=True)
class Found:
    """A notebook's row, and that of the node it names."""

    owner: str | None
    owner_fence: int
    fence: int | None
    """The node's, now; None where there is no such node."""
    state: NodeState
    endpoint: str
    left_s: float

    def hold(self, name: str, fence: int) -> Hold:
        """Who has it, for the node of this name and fence."""
        if not self.owner_fence or self.owner_fence != self.fence or self.state is NodeState.LOST:
            return Hold.NOBODY
        if self.owner == name:
            return Hold.HERE if self.owner_fence == fence else Hold.IN_DOUBT  # a successor of ours has it
        return Hold.IN_DOUBT if self.left_s <= 0 or self.state is NodeState.AWAY else Hold.THERE


class Given(Enum):
    """What became of giving a notebook to a node."""

    DONE = auto()
    TAKEN = auto()
    """Somebody has it."""
    BUSY = auto()
    """Somebody else is giving it to a node just now."""
    NOT_SERVING = auto()
    """The node takes no notebooks (any more)."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a lost node had."""

    node: str
    notebooks: dict[NotebookKey, NotebookRef]
    """Those with something unfinished, or a sandbox: ours now. The others are nobody's."""
    sandboxes: int
    """How many it had; they have ended."""


_ID = notebooks.c.tenant, notebooks.c.notebook_id


def find(connection: Connection, ref: NotebookRef) -> Found | None:
    """Who has the notebook; None where there is none of this id."""
    row = connection.execute(
        select(
            notebooks.c.owner,
            notebooks.c.owner_fence,
            nodes.c.fence,
            nodes.c.state,
            nodes.c.endpoint,
            (nodes.c.expires_at - NOW).label("left_s"),
        )
        .select_from(notebooks.outerjoin(nodes, nodes.c.name == notebooks.c.owner))
        .where(_is(ref))
    ).first()
    if row is None:
        return None
    state = NodeState(row.state) if row.state else NodeState.LOST
    return Found(row.owner, row.owner_fence, row.fence, state, row.endpoint or "", row.left_s or 0.0)


def give(
    connection: Connection, ref: NotebookRef, to: str, add: Callable[[Connection], object] | None = None
) -> tuple[Given, Node | None]:
    """Gives a notebook that nobody has to a node whose lease is in force; returns that node's row with it.

    `add`: adds the notebook where there is none. Never waits for another transaction that gives notebooks: two that
    each give many, in another order, would wait for one another.
    """
    if not connection.execute(select(func.pg_try_advisory_xact_lock(_number(ref)))).scalar_one():
        return Given.BUSY, None
    node = leases.serving(connection, to)
    if node is None:
        return Given.NOT_SERVING, None
    found = find(connection, ref)
    if found is None:
        if add is None:
            return Given.TAKEN, None  # it was deleted meanwhile; whoever looks again sees it
        add(connection)
    elif found.hold("", 0) is not Hold.NOBODY:
        return Given.TAKEN, None
    connection.execute(update(notebooks).where(_is(ref)).values(owner=to, owner_fence=node.fence))
    return Given.DONE, node


def give_up(connection: Connection, ref: NotebookRef, name: str, fence: int) -> None:
    """Nobody has the notebook any more, where this node had it. Its name stays: its files may still be there."""
    mine = (notebooks.c.owner == name) & (notebooks.c.owner_fence == fence)
    connection.execute(update(notebooks).where(_is(ref), mine).values(owner_fence=0))


def hand_over(connection: Connection, key: NotebookKey, name: str, fence: int, to: str) -> bool:
    """Gives what this node has to another node that serves, which is to open it; whether it did."""
    node = leases.serving(connection, to)
    if node is None:
        return False
    mine = (notebooks.c.key == key) & (notebooks.c.owner == name) & (notebooks.c.owner_fence == fence)
    given = connection.execute(update(notebooks).where(mine).values(owner=to, owner_fence=node.fence)).rowcount == 1
    if given:
        handed_over.note(connection, key, to)
    return given


def give_up_idle(connection: Connection, name: str, fence: int, keep: Collection[NotebookRef]) -> int:
    """Gives up what the node has and nothing of is going on in, except for these; returns how many those were."""
    return _give_up_idle(connection, name, fence, tuple_(*_ID).not_in([_id(ref) for ref in keep]) if keep else true())


def give_up_if_idle(connection: Connection, name: str, fence: int, ref: NotebookRef) -> bool:
    """Gives up one notebook, where this node has it and nothing is going on in it; whether it did."""
    return bool(_give_up_idle(connection, name, fence, _is(ref)))


def adopt(connection: Connection, name: str, fence: int) -> None:
    """What nobody has and is unfinished is this node's: so it is in a database that was copied from another place."""
    running = exists().where(executions.c.notebook_key == notebooks.c.key, executions.c.state != State.ENDED)
    mine = {"owner": name, "owner_fence": fence}
    connection.execute(update(notebooks).where(notebooks.c.owner_fence == 0, running).values(mine))


def had_by(connection: Connection, name: str, fence: int) -> dict[NotebookKey, NotebookRef]:
    """What the node has: after a restart, also what its predecessor had."""
    mine = (notebooks.c.owner == name) & (notebooks.c.owner_fence == fence)
    columns = notebooks.c.key, notebooks.c.tenant, notebooks.c.notebook_id
    return _refs(connection.execute(select(*columns).where(mine)).all())


def counted(connection: Connection) -> dict[tuple[str, int], int]:
    """How many notebooks each node and fence has."""
    rows = connection.execute(
        select(notebooks.c.owner, notebooks.c.owner_fence, func.count())
        .where(notebooks.c.owner_fence != 0)
        .group_by(notebooks.c.owner, notebooks.c.owner_fence)
    )
    return {(owner, fence): count for owner, fence, count in rows}


def inherit(connection: Connection, lost: Node, name: str, fence: int) -> Inherited | None:
    """Takes over from a node whose lease has run out; None where it came back, or somebody else was first.

    All in one: its lease ends, what it had with something unfinished is this node's, what it had else is nobody's, and
    its sandboxes have ended. So there is never a notebook with something unfinished that nobody sees to.
    """
    if not leases.end(connection, lost):
        return None
    had = (notebooks.c.owner == lost.name) & (notebooks.c.owner_fence == lost.fence)
    theirs = (sandboxes.c.node == lost.name) & (sandboxes.c.state != SandboxState.ENDED)
    ours = (
        update(notebooks)
        .where(had, _busy(lost.name))
        .values(owner=name, owner_fence=fence)
        .returning(notebooks.c.key, notebooks.c.tenant, notebooks.c.notebook_id)
    )
    taken = _refs(connection.execute(ours).all())
    handed_over.settle(connection, lost.name, handed_over.find(connection, lost.name))
    connection.execute(update(notebooks).where(had).values(owner_fence=0))
    ended = update(sandboxes).where(theirs)
    ended = ended.values(state=SandboxState.ENDED, end_reason=EndReason.NODE_LOST, ended_at=steady())
    return Inherited(lost.name, taken, connection.execute(ended).rowcount)


def _give_up_idle(connection: Connection, name: str, fence: int, which: ColumnElement[bool]) -> int:
    mine = (notebooks.c.owner == name) & (notebooks.c.owner_fence == fence)
    given_up = update(notebooks).where(mine, ~_busy(name), which).values(owner_fence=0)
    return connection.execute(given_up).rowcount


def _busy(node: str) -> ColumnElement[bool]:
    """Whether a notebook has something unfinished, or a sandbox of this node."""
    running = exists().where(executions.c.notebook_key == notebooks.c.key, executions.c.state != State.ENDED)
    seated = exists().where(
        sandboxes.c.notebook_key == notebooks.c.key,
        sandboxes.c.node == node,
        sandboxes.c.state != SandboxState.ENDED,
    )
    return or_(running, seated)


def _is(ref: NotebookRef) -> ColumnElement[bool]:
    return tuple_(*_ID) == _id(ref)


def _id(ref: NotebookRef) -> tuple[str, str]:
    return ref.tenant, ref.notebook_id


def _number(ref: NotebookRef) -> int:
    """A notebook's number among advisory locks. Two with one number only wait for each other."""
    digest = blake2b(f"{ref.tenant}/{ref.notebook_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, signed=True)


def _refs(rows: Sequence[Any]) -> dict[NotebookKey, NotebookRef]:
    return {NotebookKey(row.key): NotebookRef(TenantName(row.tenant), NotebookId(row.notebook_id)) for row in rows}
