"""What goes wrong with the store."""

from __future__ import annotations


class StoreFailed(Exception):
    """The store did not take a transaction, or could not be read (disk full, disk gone). Nothing was stored."""
