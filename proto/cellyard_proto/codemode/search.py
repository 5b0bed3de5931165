"""Search by words: Okapi BM25 over texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")
_SATURATION, _LENGTH = 1.5, 0.75


def rank(query: str, documents: Sequence[str], limit: int) -> list[int]:
    """Indices of the documents that share a word with the query, best first, at most `limit`."""
    wanted = set(_words(query))
    found: list[tuple[int, Counter[str]]] = []
    total = 0
    for document in documents:
        words = _words(document)
        total += len(words)
        found.append((len(words), Counter(word for word in words if word in wanted)))
    average = total / len(found) if total else 1.0
    rarity = {}
    for word in wanted:
        having = sum(word in counts for _, counts in found)
        rarity[word] = math.log(1 + (len(found) - having + 0.5) / (having + 0.5))
    scored = []
    for index, (length, counts) in enumerate(found):
        norm = _SATURATION * (1 - _LENGTH + _LENGTH * length / average)
        score = sum(rarity[word] * n * (_SATURATION + 1) / (n + norm) for word, n in counts.items())
        if score > 0:
            scored.append((-score, index))
    return [index for _, index in sorted(scored)[: max(0, limit)]]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
