"""The store: what the controller has promised to keep.

One thread owns the one connection that writes. It takes every transaction that waits, runs them in order in one
SQLite transaction and commits once; a caller goes on only when its own transaction is on disk. Reads have
connections of their own. Large parts of outputs are files beside the database.
"""

from cellyard_controller.store.database import Store
from cellyard_controller.store.errors import StoreDamaged, StoreFailed

__all__ = ["Store", "StoreDamaged", "StoreFailed"]
