"""Calls that the code of an execution makes to the client that started it: functions offered, lines for input().

A call is open until its one end: an answer, or nobody there to give one. Calls and ends are events of the execution,
so both outlive the controller; what stands here is found again by replaying them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellyard_controller.clock import steady

MAX_CALLS = 10_000
"""Calls of one execution; what comes later fails in the code."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What the client that starts an execution offers to its code."""

    functions: frozenset[str] = frozenset()
    input: bool = False

    def __bool__(self) -> bool:
        return self.input or bool(self.functions)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the code gets for a call."""

    kind: str
    """`value` (tagged JSON), `text` (a line), `error` (name and message) or `unavailable` (why)."""
    content: str
    name: str = ""
    """The exception's, of an error."""

    def body(self) -> dict[str, str]:
        """As it stands in an event."""
        return {"kind": self.kind, "content": self.content, "name": self.name}


def unavailable(why: str) -> Answer:
    """Nobody answers: the code gets HostUnavailable, or EOFError from input()."""
    return Answer("unavailable", why)


NOTHING = Offers()


class Calls:
    """The calls of one execution, and whether its client is there."""

    def __init__(self, offers: Offers) -> None:
        self.offers = offers
        self.open: dict[str, None] = {}
        """Calls without an end, oldest first."""
        self.ended: dict[str, str] = {}
        """Calls that have one, and the id of the request that answered them."""
        self._streams = 0
        self._away_since = steady()

    def refusal(self, name: str | None) -> str:
        """Why the code cannot call this function now (None: cannot ask for a line); empty where it can."""
        if name is None:
            return "" if self.offers.input else "nobody answers input() for this cell"
        if name not in self.offers.functions:
            return f"the client that started this cell does not offer {name!r}"
        if len(self.open) + len(self.ended) >= MAX_CALLS:
            return f"one execution may make {MAX_CALLS:,} calls"
        return ""

    def came(self, call_id: str) -> bool:
        """Takes a call in; False where it was there before."""
        if call_id in self.open or call_id in self.ended:
            return False
        self.open[call_id] = None
        return True

    def end(self, call_id: str, request_id: str = "") -> None:
        """Takes the end of an open call in."""
        self.open.pop(call_id, None)
        self.ended[call_id] = request_id

    def attached(self) -> None:
        """The client reads its stream."""
        self._streams += 1

    def detached(self) -> None:
        """One of its streams has ended; with the last one its grace begins."""
        self._streams -= 1
        if self._streams == 0:
            self._away_since = steady()

    def gone_at(self, grace_s: float) -> float | None:
        """When the client counts as gone; None while it is there."""
        return None if self._streams else self._away_since + grace_s

    def replay(self, kind: str, body: dict[str, Any]) -> None:
        """Takes an event in that was committed before a restart."""
        if kind in ("host_call", "input_requested"):
            self.came(body["call_id"])
        elif kind == "call_ended":
            self.end(body["call_id"], body["request_id"])
