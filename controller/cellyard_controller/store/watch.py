"""Ends connections on which nothing comes back: a server that stands still answers nothing, not even a refusal."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Watch:
    """One thread for all connections of a store. A connection that is past its time is shut down under its user."""

    def __init__(self) -> None:
        self._due: dict[Any, float] = {}
        self._changed = threading.Condition()
        self._open = True
        threading.Thread(target=self._run, name="store-watch", daemon=True).start()

    @contextmanager
    def within(self, driver: Any, seconds: float) -> Iterator[None]:
        """What is done with this connection in the block takes no longer, unless it is `extended`."""
        self.extend(driver, seconds)
        try:
            yield
        finally:
            with self._changed:
                self._due.pop(driver, None)

    def extend(self, driver: Any, seconds: float) -> None:
        """From now on so many seconds are left."""
        with self._changed:
            self._due[driver] = time.monotonic() + seconds
            if len(self._due) == 1:
                self._changed.notify()

    def close(self) -> None:
        """Watches nothing any more."""
        with self._changed:
            self._open = False
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while self._open:
                now = time.monotonic()
                for driver in [driver for driver, due in self._due.items() if due <= now]:
                    del self._due[driver]
                    _shut_down(driver)
                # Whoever is begun meanwhile has at least as long, so waking up now and then is enough.
                self._changed.wait(_EVERY_S if self._due else None)


_EVERY_S = 0.25


def _shut_down(driver: Any) -> None:
    """Ends a connection's socket, not its descriptor, which the driver still holds."""
    try:
        # A descriptor of its own: the other one stays with the driver.
        with socket.socket(fileno=os.dup(driver.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)
    except Exception:  # the driver's own error, or the system's: it is closed already
        pass
