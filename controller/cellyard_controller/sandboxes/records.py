"""Sandboxes in the store. A container is known when its id stands here, whatever its labels say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from cellyard_controller.clock import steady
from cellyard_controller.ids import NotebookId, NotebookKey, NotebookRef, SandboxId, TenantName
from cellyard_controller.runtimes import Template
from cellyard_controller.sandboxes.lifecycle import SandboxState
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import notebooks, sandboxes


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One stored sandbox."""

    sandbox_id: SandboxId
    runtime: str
    template: str
    network: str
    instance_id: str
    uid: int
    state: SandboxState
    notebook: NotebookKey | None
    kernel_type: str
    env_source: str
    capabilities: tuple[str, ...]
    created_at: float
    claimed_at: float
    generation: int
    committed_number: int
    end_reason: str
    asked: Template | None
    """What it was made from; None of sandboxes of earlier releases."""
    made_of: str = ""
    """What its runtime made it of, once it was warm."""


def add(
    connection: Connection, sandbox_id: SandboxId, runtime: str, template: Template, uid: int, node: str = ""
) -> None:
    """A sandbox is about to be created, on this node where several share the store."""
    connection.execute(
        insert(sandboxes).values(
            sandbox_id=sandbox_id,
            runtime=runtime,
            template=template.name,
            network=template.network,
            asked=json.dumps(asdict(template)),
            uid=uid,
            node=node,
            state=SandboxState.CREATING,
            created_at=steady(),
        )
    )


def change(connection: Connection, sandbox_id: SandboxId, **values: Any) -> None:
    """Stores what has become of a sandbox."""
    connection.execute(update(sandboxes).where(sandboxes.c.sandbox_id == sandbox_id).values(**values))


_COMMITTED = Hot(
    update(sandboxes).where(sandboxes.c.sandbox_id == bindparam("this")).values(committed_number=bindparam("number"))
)


def set_committed(connection: Connection, sandbox_id: SandboxId, number: int) -> None:
    """Reports of its agent up to this number are stored."""
    _COMMITTED(connection, {"this": sandbox_id, "number": number})


def set_warm(
    connection: Connection,
    sandbox_id: SandboxId,
    *,
    kernel_type: str,
    env_source: str,
    capabilities: tuple[str, ...],
    generation: int,
    made_of: str,
) -> None:
    """Its kernel is up, and nobody has it: a successor may take it up. One that has ended meanwhile stays so."""
    still_made = (sandboxes.c.sandbox_id == sandbox_id) & (sandboxes.c.state == SandboxState.CREATING)
    connection.execute(
        update(sandboxes)
        .where(still_made)
        .values(
            state=SandboxState.WARM,
            kernel_type=kernel_type,
            env_source=env_source,
            capabilities=json.dumps(list(capabilities)),
            generation=generation,
            made_of=made_of,
        )
    )


_CLAIMED = Hot(
    update(sandboxes)
    .where(sandboxes.c.sandbox_id == bindparam("this"), sandboxes.c.state != bindparam("ended"))
    .values(
        state=bindparam("now"),
        notebook_key=bindparam("notebook"),
        kernel_type=bindparam("kernel"),
        env_source=bindparam("environment"),
        capabilities=bindparam("proven"),
        network=bindparam("net"),
        generation=bindparam("count"),
        claimed_at=bindparam("at"),
    )
)


def set_claimed(
    connection: Connection,
    sandbox_id: SandboxId,
    notebook: NotebookKey,
    *,
    kernel_type: str,
    env_source: str,
    capabilities: tuple[str, ...],
    network: str,
    generation: int,
    at: float,
) -> None:
    """It serves this notebook from now on, and never another one. One that has ended meanwhile stays so."""
    _CLAIMED(
        connection,
        {
            "this": sandbox_id,
            "now": SandboxState.CLAIMED.value,
            "ended": SandboxState.ENDED.value,
            "notebook": notebook,
            "kernel": kernel_type,
            "environment": env_source,
            "proven": json.dumps(list(capabilities)),
            "net": network,
            "count": generation,
            "at": at,
        },
    )


def set_ended(connection: Connection, sandbox_id: SandboxId, reason: str) -> None:
    """It is gone, or about to go for good."""
    change(connection, sandbox_id, state=SandboxState.ENDED, end_reason=reason, ended_at=steady())


def living(connection: Connection, node: str = "") -> list[SandboxRecord]:
    """A node's sandboxes that have not ended, oldest first."""
    rows = connection.execute(
        select(sandboxes)
        .where(sandboxes.c.state != SandboxState.ENDED, sandboxes.c.node == node)
        .order_by(sandboxes.c.created_at)
    )
    return [_record(row) for row in rows]


def elsewhere(connection: Connection, node: str) -> list[tuple[str, SandboxRecord, NotebookRef | None]]:
    """The sandboxes of all other nodes that have not ended, oldest first: each with its node and its notebook."""
    rows = connection.execute(
        select(sandboxes, notebooks.c.tenant, notebooks.c.notebook_id)
        .join(notebooks, notebooks.c.key == sandboxes.c.notebook_key, isouter=True)
        .where(sandboxes.c.state != SandboxState.ENDED, sandboxes.c.node != node)
        .order_by(sandboxes.c.created_at)
    )
    return [
        (
            row.node,
            _record(row),
            NotebookRef(TenantName(row.tenant), NotebookId(row.notebook_id)) if row.tenant else None,
        )
        for row in rows
    ]


def _record(row: Row[Any]) -> SandboxRecord:
    return SandboxRecord(
        sandbox_id=SandboxId(row.sandbox_id),
        runtime=row.runtime,
        template=row.template,
        network=row.network,
        instance_id=row.instance_id,
        uid=row.uid,
        state=SandboxState(row.state),
        notebook=NotebookKey(row.notebook_key) if row.notebook_key is not None else None,
        kernel_type=row.kernel_type,
        env_source=row.env_source,
        capabilities=tuple(json.loads(row.capabilities)),
        created_at=row.created_at,
        claimed_at=row.claimed_at,
        generation=row.generation,
        committed_number=row.committed_number,
        end_reason=row.end_reason,
        asked=_template(row.asked),
        made_of=row.made_of,
    )


def _template(text: str) -> Template | None:
    if not text:
        return None
    known = {each.name for each in fields(Template)}
    return Template(**{name: value for name, value in json.loads(text).items() if name in known})
