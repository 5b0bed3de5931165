"""Text as PostgreSQL takes it: every character but U+0000, which code may well print.

That one is written as two characters, and so is the one that announces it. What comes back is what was given. SQLite
takes all texts as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.adapt import Loader
from psycopg.types.string import StrDumperUnknown

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.abc import Buffer

_MARK = "\x1a"  # "substitute", which hardly any text has
_NUL, _MARK_ITSELF = f"{_MARK}0", f"{_MARK}1"


def escaped(text: str) -> str:
    """A text without U+0000 that stands for this one, and for no other."""
    if "\0" in text or _MARK in text:
        return text.replace(_MARK, _MARK_ITSELF).replace("\0", _NUL)
    return text


def restored(text: str) -> str:
    """The text that an escaped one stands for."""
    if _MARK in text:
        return text.replace(_NUL, "\0").replace(_MARK_ITSELF, _MARK)
    return text


class _Dumper(StrDumperUnknown):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(escaped(obj))


class _TextLoader(Loader):
    def load(self, data: Buffer) -> str:
        return restored(str(data, "utf-8"))


def install(connection: Connection) -> None:
    """From now on this connection escapes and restores all texts, in whatever way they come to it."""
    connection.adapters.register_dumper(str, _Dumper)
    for name in ("text", "varchar"):
        connection.adapters.register_loader(name, _TextLoader)
