"""What goes wrong with the store."""

from __future__ import annotations


class StoreFailed(Exception):
    """The store did not take a transaction, or could not be read (disk full, disk gone). Nothing was stored."""


class StoreDamaged(StoreFailed):
    """What is asked for lies in a part of the database that SQLite finds damaged. The rest can be read."""
