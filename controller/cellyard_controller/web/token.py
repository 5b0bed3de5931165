"""The operator's token for HTTP: a file that the operator can read, and can replace at any time."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cellyard_controller.api.server import CannotListen

SHORTEST, _LONGEST = 16, 4096


class TokenFile:
    """Compares tokens with what the file holds at that moment, so that it can be replaced without a restart."""

    def __init__(self, path: Path, *, make: bool) -> None:
        """`make`: writes 256 random bits where there is no file yet. Raises CannotListen."""
        self._path = path
        try:
            if make:
                _make(path)
            content = self._content()
        except OSError as failed:
            raise CannotListen(f"the token for HTTP cannot be read: {failed.strerror} ({path})", usage=True) from None
        if len(content) < SHORTEST:
            raise CannotListen(
                f"the token for HTTP in {path} has {len(content)} bytes; at least {SHORTEST} are needed: "
                "write a longer one, or remove a file that the controller made",
                usage=True,
            )

    def allows(self, authorization: str) -> bool:
        """Whether this header carries the token. Takes as long for a wrong one as for the right one."""
        scheme, _, given = authorization.partition(" ")
        try:
            content = self._content()
        except OSError:
            return False  # nobody knows the token of a file that is gone
        known = hmac.compare_digest(_digest(given.strip().encode(errors="replace")), _digest(content))
        return known and scheme.lower() == "bearer" and len(content) >= SHORTEST

    def fingerprint(self) -> bytes:
        """Tells this token from others, and nothing about it; empty where there is none."""
        try:
            content = self._content()
        except OSError:
            return b""
        return _digest(content) if len(content) >= SHORTEST else b""

    def _content(self) -> bytes:
        with self._path.open("rb") as file:
            return file.read(_LONGEST).strip()


def _make(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secrets.token_urlsafe(32)}\n")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
