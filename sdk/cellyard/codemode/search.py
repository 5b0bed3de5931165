"""Search in what tools and workflows say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Search(Protocol):
    """Ranks texts by how well they fit a query. May be used from several threads at once."""

    def rank(self, query: str, documents: Sequence[str], limit: int) -> list[int]:
        """Indices of those that fit, best first, at most `limit`."""
        ...


def default_search() -> Search:
    """The one that this installation has."""
    raise NotImplementedError
