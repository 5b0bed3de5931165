"""What every session can be asked for, whatever it is made by."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypedDict

from cellyard.codemode.executors.protocol import Needs
from cellyard.codemode.tools import OnToolCall
from cellyard.endpoint import TLS
from cellyard.errors import InvalidRequest


class Wishes(TypedDict, total=False):
    """Keywords of every way to make a Session; it says what they mean."""

    endpoint: str | None
    token: str | None
    tls: bool | TLS
    require: Collection[str]
    on_tool_call: OnToolCall | None
    network: str | None
    template: str | None


def checked(wishes: Wishes) -> tuple[Needs, OnToolCall | None]:
    """What the executor is to bring, and who is asked before tools are called. Raises InvalidRequest, and TypeError
    for what is none of these keywords."""
    unknown = sorted(wishes.keys() - Wishes.__annotations__.keys())
    if unknown:
        raise TypeError(f"Session got an unexpected keyword argument {unknown[0]!r}")
    on_tool_call, require = wishes.get("on_tool_call"), wishes.get("require", ())
    if on_tool_call is not None and not callable(on_tool_call):
        raise InvalidRequest(f"on_tool_call must be a function, not {type(on_tool_call).__name__}")
    if isinstance(require, str) or not all(isinstance(name, str) for name in require):
        raise InvalidRequest("require is a collection of names of capabilities")
    needs = Needs(
        wishes.get("endpoint"),
        wishes.get("token"),
        wishes.get("tls", False),
        frozenset(require),
        wishes.get("network"),
        wishes.get("template"),
    )
    return needs, on_tool_call
