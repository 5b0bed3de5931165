"""The connection of a lease: apart from those that write, so that neither holds the other up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine


class Line:
    """One connection that is kept, and made anew after a failure. For one thread; `cut` is for another."""

    def __init__(self, engine: Engine) -> None:
        """`engine`: one that connects anew each time, with limits on both sides below the lease."""
        self._engine = engine
        self._connection: Connection | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        """For the socket only."""

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction. After an error of the database the connection is given up: it may be half dead."""
        try:
            connection = self._connection or self._connect()
            with connection.begin():
                yield connection
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Ends the connection under whoever waits for an answer on it, who gets an error."""
        with self._lock:
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it has ended by itself

    def close(self) -> None:
        """Lets go of the connection."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None
        if self._connection is not None:
            self._connection.invalidate()  # no goodbye, which may take long
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection:
        connection = self._connection = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
        driver = connection.connection.driver_connection
        assert driver is not None
        with self._lock:  # a descriptor of our own: the driver's number may be another's once it has closed it
            self._socket = socket.socket(fileno=os.dup(driver.fileno()))
        return connection
