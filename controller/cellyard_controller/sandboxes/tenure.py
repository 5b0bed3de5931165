"""How long sandboxes may go on without hearing of their controller again.

Where several controllers share a store, one that has lost its lease may not be there to end its sandboxes: it may be
paused, or dead. So each agent is told with every renewal how long the lease has left, and ends its sandbox by itself
when that is over, connected or not. And nothing is begun in one when half of the lease has gone: a controller that was
paused in the moment before it sent something must not send it an hour later.
"""

from __future__ import annotations

import time


class Tenure:
    """Of all sandboxes of one controller. Without one, which is the usual, they go on."""

    def __init__(self) -> None:
        self._until: float | None = None
        self._begin_until: float | None = None

    def extend(self, until: float, begin_until: float) -> None:
        """From now on it ends at the one moment, and nothing new is begun after the other (monotonic time)."""
        self._until, self._begin_until = until, begin_until

    def left(self) -> float | None:
        """Seconds, 0 where it is over; None where there is no end."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    @property
    def may_begin(self) -> bool:
        """Whether something new may be begun."""
        return self._begin_until is None or time.monotonic() < self._begin_until
