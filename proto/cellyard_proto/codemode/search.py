"""Ranks texts by the words they share with a query: Okapi BM25. Knows English plurals and how code names things."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

_K1, _B = 1.5, 0.75  # how soon repeating a word stops to count, and how much a text's length does; as usual

_RUN = re.compile(r"[^\W_]+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SAYING_NOTHING = (
    "a an and are as at be by can do for from has have how i in is it its me my not of on or that the this to use "
    "using was what when where which will with you your"
)
_COMMON = frozenset(_SAYING_NOTHING.split())


def tokens(text: str) -> list[str]:
    """The words of a text, in lower case and without a plural's ending.

    Names are taken apart, and kept whole too where case or digits part them: `fetchGitHub_v2` has fetch, git, hub,
    fetchgithub, v, 2, v2. Signs of scripts that put no blanks between words are words.
    """
    return [_singular(word) for run in _RUN.finditer(text) for word in _words(run.group())]


def rank(query: str, documents: Sequence[str], limit: int) -> list[int]:
    """Indices of the documents that share a word with the query, best first, at most `limit`; of equals, the first.

    A query of nothing but words such as "the" is taken by its word. `limit` below 1 gives none.
    """
    wanted = list(dict.fromkeys(tokens(query)))
    wanted = [word for word in wanted if word not in _COMMON] or wanted
    if not wanted or limit < 1:
        return []
    lengths = []
    found: list[tuple[int, Counter[str]]] = []
    terms = frozenset(wanted)
    for index, document in enumerate(documents):
        words = tokens(document)
        lengths.append(len(words))
        shared = Counter(word for word in words if word in terms)
        if shared:
            found.append((index, shared))
    weights = _weights(wanted, found, len(documents))
    mean = sum(lengths) / max(1, len(lengths))
    scored = ((-_score(weights, shared, lengths[index] / mean), index) for index, shared in found)
    return [index for _, index in heapq.nsmallest(limit, scored)]


def _weights(wanted: Sequence[str], found: Sequence[tuple[int, Counter[str]]], documents: int) -> dict[str, float]:
    """What each word is worth: the fewer documents have it, the more. Always above zero."""
    having = Counter(word for _, shared in found for word in shared)
    return {word: math.log1p((documents - having[word] + 0.5) / (having[word] + 0.5)) for word in wanted}


def _score(weights: dict[str, float], shared: Counter[str], length: float) -> float:
    held_back = _K1 * (1 - _B + _B * length)
    return sum(
        weight * shared[word] * (_K1 + 1) / (shared[word] + held_back)
        for word, weight in weights.items()
        if word in shared
    )


def _words(run: str) -> Iterator[str]:
    if run.isascii() and run.islower() and run.isalpha():  # most of all text
        yield run
        return
    if not run.isascii():
        yield from _foreign(run)
        return
    parts = _PART.findall(run)
    for part in parts:
        yield part.lower()
    if len(parts) > 1:
        yield run.lower()


def _foreign(run: str) -> Iterator[str]:
    """Words in letters that the pattern of names knows nothing of, as they are; signs one by one."""
    word = ""
    for char in run.casefold():
        if "\u3040" <= char <= "\u30ff" or "\u3400" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7a3":
            if word:
                yield word
                word = ""
            yield char
        else:
            word += char
    if word:
        yield word


def _singular(word: str) -> str:
    """Without a plural's ending; `box`, `boxes`, and `cache`, `caches` become one, not necessarily a word."""
    if len(word) < 4 or not word.isascii():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word[-1] == "s" and word[-2] not in "sui":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith(("se", "xe", "ze", "che", "she")) else word
