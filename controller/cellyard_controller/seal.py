"""Sealing what may carry secrets before it is stored: settings with a session's environment variables.

The key lies beside the database, readable by the controller's user alone; it protects copies of the database, not
the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.fernet import Fernet


class Seal:
    """Encrypts and authenticates with the data folder's own key."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._key = key

    @classmethod
    def of(cls, data: Path) -> Seal:
        """The seal of a data folder; makes its key at first use."""
        path = data / "seal.key"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return cls(path.read_bytes())
        key = Fernet.generate_key()
        with open(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(descriptor)
        return cls(key)

    @classmethod
    def at(cls, path: Path) -> Seal:
        """The seal of a key that somebody else has put there. Raises OSError, ValueError."""
        try:
            return cls(path.read_bytes().strip())
        except ValueError as bad:
            raise ValueError(f"{path} has no key: 32 bytes in URL-safe base64") from bad

    @staticmethod
    def made(data: Path) -> bool:
        """Whether the data folder has a key: the first start that went well has made one."""
        return (data / "seal.key").exists()

    def close(self, secret: bytes) -> bytes:
        """Seals."""
        return self._fernet.encrypt(secret)

    def open(self, sealed: bytes) -> bytes:
        """What was sealed. Raises cryptography's InvalidToken where the key is another one."""
        return self._fernet.decrypt(sealed)

    def derive(self, purpose: bytes) -> bytes:
        """A key for one purpose, always the same in this data folder; it tells nothing of the seal's own."""
        return hmac.digest(self._key, b"derived\0" + purpose, hashlib.sha256)
