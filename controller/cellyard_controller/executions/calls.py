"""Calls that the code of an execution makes to the client that started it: functions offered, lines for input().

What code mode keeps is served by the controller where the client does not offer it. A call is open until its one end:
an answer, or nobody there to give one. Calls and ends are events of the execution, so both outlive the controller; what
stands here is found again by replaying them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cellyard_controller.clock import steady
from cellyard_proto.codemode import names

SERVED = frozenset({names.WORKFLOWS, names.ARTIFACTS})
"""Functions that the controller serves where no client does."""
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
        self.served: dict[str, dict[str, str]] = {}
        """Those of the open calls that the controller serves: the bodies of their events."""
        self._streams = 0
        self._away_since = steady()
        self._left = False

    def refusal(self, name: str | None) -> str:
        """Why the code cannot call this function now (None: cannot ask for a line); empty where it can."""
        if name is None:
            return "" if self.offers.input else "nobody answers input() for this cell"
        if name in names.FUNCTIONS and not self.serves(name) and name not in self.offers.functions:
            return f"the client that started this cell does not offer {name!r}: tools and packages are its alone"
        if name not in self.offers.functions and not self.serves(name):
            return f"the client that started this cell does not offer {name!r}"
        if len(self.open) + len(self.ended) >= MAX_CALLS:
            return f"one execution may make {MAX_CALLS:,} calls"
        return ""

    def serves(self, name: str | None) -> bool:
        """Whether calls of this function are served by the controller."""
        return name in SERVED and name not in self.offers.functions

    @property
    def asked_of_client(self) -> list[str]:
        """Those of the open calls that the client is to answer."""
        return [call_id for call_id in self.open if call_id not in self.served]

    def came(self, call_id: str, body: dict[str, Any]) -> bool:
        """Takes a call in, with the body of its event; False where it was there before."""
        if call_id in self.open or call_id in self.ended:
            return False
        self.open[call_id] = None
        if self.serves(body.get("name")):
            self.served[call_id] = body
        return True

    def end(self, call_id: str, request_id: str = "") -> None:
        """Takes the end of an open call in."""
        self.open.pop(call_id, None)
        self.served.pop(call_id, None)
        self.ended[call_id] = request_id

    def attached(self) -> None:
        """The client reads its stream."""
        self._streams += 1
        self._left = False

    def detached(self) -> None:
        """One of its streams has ended; with the last one its grace begins."""
        self._streams -= 1
        if self._streams == 0:
            self._away_since = steady()

    def left(self) -> None:
        """The client has said that it leaves: it has no grace."""
        self._left = True

    def gone_at(self, grace_s: float) -> float | None:
        """When the client counts as gone; None while it is there."""
        if self._left:
            return 0.0
        return None if self._streams else self._away_since + grace_s

    def replay(self, kind: str, body: dict[str, Any]) -> None:
        """Takes an event in that was committed before a restart."""
        if kind in ("host_call", "input_requested"):
            self.came(body["call_id"], body)
        elif kind == "call_ended":
            self.end(body["call_id"], body["request_id"])
