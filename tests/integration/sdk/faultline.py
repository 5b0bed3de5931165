"""A unix socket that forwards to another one, and can be cut: what a client sees when its controller dies."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from pathlib import Path


class Faultline:
    """Forwards `path` to `behind`. One thread of its own; every change goes through it."""

    def __init__(self, path: Path, behind: Path) -> None:
        self.path = path
        self._behind = behind
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._lock = threading.RLock()
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._over = False
        self.restore()
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self._lock:
            return len(self._peers) // 2

    def cut(self, *, listen: bool = True) -> None:
        """Breaks every connection; with `listen=False` nobody listens any more either."""
        with self._lock:
            for end in list(self._peers):
                self._drop(end)
            if not listen and self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
                os.unlink(self.path)
        self._wake()

    def restore(self) -> None:
        """Listens again."""
        with self._lock:
            if self._listener is None:
                self._listener = socket.socket(socket.AF_UNIX)
                self._listener.bind(os.fspath(self.path))
                self._listener.listen(64)
                self._selector.register(self._listener, selectors.EVENT_READ)
        self._wake()

    def close(self) -> None:
        """Ends it."""
        self.cut(listen=False)
        self._over = True
        self._wake()
        self._thread.join()
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _wake(self) -> None:
        self._wake_write.send(b"!")

    def _forward(self) -> None:
        while not self._over:
            for key, _ in self._selector.select():
                with self._lock:
                    self._handle(key.fileobj)

    def _handle(self, ready: object) -> None:
        if ready is self._wake_read:
            self._wake_read.recv(64)
        elif ready is self._listener and self._listener is not None:
            client, _ = self._listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(os.fspath(self._behind))
            self._peers[client], self._peers[server] = server, client
            for end in (client, server):
                self._selector.register(end, selectors.EVENT_READ)
        elif isinstance(ready, socket.socket) and ready in self._peers:
            try:
                data = ready.recv(65536)
                if data:
                    self._peers[ready].sendall(data)
                    return
            except OSError:
                pass
            self._drop(ready)

    def _drop(self, end: socket.socket) -> None:
        for side in (end, self._peers.get(end)):
            if side is not None and self._peers.pop(side, None) is not None:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(side)
                side.close()
