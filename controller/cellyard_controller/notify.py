"""Tells a service manager how the controller is: sd_notify(3), for units with Type=notify. Nothing where none asks."""

from __future__ import annotations

import os
import socket

import structlog

log = structlog.get_logger()


class ServiceManager:
    """Whoever started the controller and wants to know when it is ready, and when it begins to stop."""

    def __init__(self) -> None:
        """Takes the manager's address out of the environment: the controller's own children have nothing to say."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self, says: str) -> None:
        """It serves. `says`: a sentence for `systemctl status`."""
        self._tell(f"READY=1\nSTATUS={says}")

    def stopping(self, says: str) -> None:
        """It begins to stop."""
        self._tell(f"STOPPING=1\nSTATUS={says}")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
                manager.setblocking(False)
                manager.sendto(text.encode(), self._address)
        except OSError as failed:  # it serves all the same
            log.warning("the service manager cannot be told", why=str(failed))
