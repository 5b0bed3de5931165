"""Notebooks that one node has given to another one, which opens them because something waits in them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, delete, insert, select

from cellyard_controller.ids import NotebookKey
from cellyard_controller.store.schema import meta

_PREFIX = "handed:"


def note(connection: Connection, key: NotebookKey, to: str) -> None:
    """A node is to open it: in the transaction that gives it the notebook."""
    settle(connection, to, [key])
    connection.execute(insert(meta).values(key=f"{_prefix(to)}{key}", value=""))


def find(connection: Connection, name: str) -> list[NotebookKey]:
    """What this node is to open."""
    prefix = _prefix(name)
    named = select(meta.c.key).where(meta.c.key.startswith(prefix, autoescape=True))
    return sorted(NotebookKey(int(key.removeprefix(prefix))) for key in connection.execute(named).scalars())


def settle(connection: Connection, name: str, keys: Collection[NotebookKey]) -> None:
    """It has opened these, or seen that they are not its own any more."""
    connection.execute(delete(meta).where(meta.c.key.in_([f"{_prefix(name)}{key}" for key in keys])))


def _prefix(name: str) -> str:
    return f"{_PREFIX}{name}:"
