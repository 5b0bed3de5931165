"""Actor ids of replicas: random, and signed for one notebook, so that nothing has to be remembered of them."""

from __future__ import annotations

import hashlib
import hmac
import os

from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import NotebookRef
from cellyard_controller.seal import Seal

_RANDOM = 16
_SIGNATURE = 16


class Actors:
    """Gives and knows the actor ids of one notebook's replicas."""

    def __init__(self, seal: Seal, ref: NotebookRef) -> None:
        self._key = seal.derive(f"replica's actor\0{ref.tenant}\0{ref.notebook_id}".encode())

    def new(self) -> bytes:
        """An actor id that nobody has had."""
        drawn = os.urandom(_RANDOM)
        return drawn + self._sign(drawn)

    def known(self, actor_id: bytes) -> bytes:
        """An actor id that was given before. Raises InvalidRequest for any other."""
        drawn, signature = actor_id[:_RANDOM], actor_id[_RANDOM:]
        if not hmac.compare_digest(self._sign(drawn), signature):
            raise InvalidRequest(f"actor id {actor_id.hex()[:80]} was not given to a replica of this notebook")
        return actor_id

    def _sign(self, drawn: bytes) -> bytes:
        return hmac.digest(self._key, drawn, hashlib.sha256)[:_SIGNATURE]
