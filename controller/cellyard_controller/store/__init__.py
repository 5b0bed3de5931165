"""The store: what the controller has promised to keep.

One thread owns the one connection that writes. It takes every transaction that waits, runs them in order in one
transaction of the database, SQLite or PostgreSQL, and commits once; a caller goes on only when its own transaction is
on disk. Reads have connections of their own. Large parts of outputs are files beside the database, or rows of it.
"""

from cellyard_controller.store.database import Store
from cellyard_controller.store.errors import Fenced, StoreDamaged, StoreFailed

__all__ = ["Fenced", "Store", "StoreDamaged", "StoreFailed"]
