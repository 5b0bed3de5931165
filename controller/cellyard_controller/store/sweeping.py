"""Who may sweep large parts that nothing refers to, where several controllers share them.

A transaction that keeps such a part, or comes to refer to one, puts sweeping off until it ends; a sweep begins when no
such transaction is in work, and they wait for its end. One controller alone needs none of it: its transactions follow
each other.
"""

from __future__ import annotations

from sqlalchemy import Connection

from cellyard_controller.store.locks import OURS, SWEEPING

_LOCK = f"{OURS}, {SWEEPING}"


def put_off(connection: Connection) -> None:
    """Nobody sweeps while this transaction lasts."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared({_LOCK})")


def may_begin(connection: Connection) -> bool:
    """Whether this transaction may sweep; nobody comes to refer to anything then until it ends."""
    if connection.dialect.name != "postgresql":
        return True
    return bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({_LOCK})").scalar_one())
