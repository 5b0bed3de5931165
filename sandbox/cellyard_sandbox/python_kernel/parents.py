"""Which cell it is that shows something: the one that started the thread or task, whatever runs by then."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any


class Parent:
    """A request whose code runs, in the form in which Jupyter's libraries know it: a message with a header."""

    __slots__ = ("message", "msg_id")

    def __init__(self, message: Any) -> None:
        self.message: dict[str, Any] = message if isinstance(message, dict) else {}
        header = self.message.get("header")
        msg_id = header.get("msg_id") if isinstance(header, dict) else None
        self.msg_id = msg_id if isinstance(msg_id, str) else ""


class Parents:
    """The parent of what is shown here and now."""

    def __init__(self) -> None:
        self._here: ContextVar[Parent] = ContextVar("cellyard_parent")
        self.latest = Parent({})
        """For threads that no Python code has started, and for what programs write."""

    def current(self) -> Parent:
        """That of this task or thread, else the latest."""
        return self._here.get(self.latest)

    def set(self, parent: Parent) -> None:
        """From now on, here and wherever nothing else is set."""
        self.latest = parent
        self._here.set(parent)

    def set_here(self, parent: Parent) -> Token[Parent]:
        """In this task or thread alone."""
        return self._here.set(parent)

    def reset(self, token: Token[Parent]) -> None:
        """What was set before."""
        self._here.reset(token)
