"""The store: what the controller has promised to keep.

One thread owns the one connection that writes. It takes every transaction that waits, runs them in order in one
SQLite transaction and commits once; a caller goes on only when its own transaction is on disk. Reads have
connections of their own.
"""

from cellyard_controller.store.database import Store, StoreDamaged, StoreFailed

__all__ = ["Store", "StoreDamaged", "StoreFailed"]
