"""Waking whoever waits for the next news, in either flavour."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class _Event(Protocol):
    def set(self) -> None: ...


_E = TypeVar("_E", bound=_Event)


class Bell(Generic[_E]):
    """Rings for everybody who listened before. Take `next_ring` first, then look whether waiting for it is needed."""

    def __init__(self, make: Callable[[], _E]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._event = make()

    @property
    def next_ring(self) -> _E:
        """Set when the bell rings next."""
        return self._event

    def ring(self) -> None:
        """Wakes all who wait."""
        with self._lock:
            event, self._event = self._event, self._make()
        event.set()
