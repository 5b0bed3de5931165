"""Text sized for models: cut in the middle, or page by page. Pure.

Nothing is lost by cutting: the whole is at the controller, and what is cut says how to read on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

DEFAULT_CHARACTERS = 20_000
"""Of the text of one result, where the server is told no other number."""
MIN_CHARACTERS = 500
MAX_CHARACTERS = 1_000_000


def middle(text: str, limit: int, read_on: Callable[[int], str]) -> str:
    """The text, or its begin and its end, `limit` characters together, with a line between them.

    `read_on` says how to get what follows the character at an offset.
    """
    if len(text) <= limit:
        return text
    head = limit - limit // 2
    tail = limit // 2
    left_out = len(text) - head - tail
    begin, end = text[:head], text[len(text) - tail :]
    return f"{begin}\n[... {left_out:,} of {len(text):,} characters left out; {read_on(head)} ...]\n{end}"


@dataclass(frozen=True, slots=True)
class Page:
    """A part of something longer."""

    content: str
    offset: int
    """Of its first character."""
    total: int
    """Characters of the whole."""

    @property
    def next_offset(self) -> int | None:
        """Where to read on; None at the end."""
        end = self.offset + len(self.content)
        return end if end < self.total else None


def page(text: str, offset: int, limit: int) -> Page:
    """What stands from `offset` on, `limit` characters at most; nothing behind the end."""
    start = min(offset, len(text))
    return Page(text[start : start + limit], start, len(text))
