"""Artifacts as sessions know them: values that come back as they were, whatever keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cellyard.codemode.errors import ArtifactDataError, made_public
from cellyard.codemode.storage.protocols import ArtifactInfo, ArtifactStore, Content
from cellyard_proto.codemode import artifacts


class Artifacts:
    """The artifacts of a storage."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def list(self) -> list[ArtifactInfo]:
        """All of them, by name."""
        return self._store.list()

    def get(self, name: str) -> ArtifactInfo | None:
        """What is known of one, None where there is none. Raises ArtifactNameError."""
        return self._store.info(_name(name))

    def exists(self, name: str) -> bool:
        """Whether there is one. Raises ArtifactNameError."""
        return self.get(name) is not None

    def save(
        self, name: str, data: Any, description: str = "", metadata: Mapping[str, Any] | None = None
    ) -> ArtifactInfo:
        """Keeps a value in place of one of the same name: bytes, str, and what JSON holds.

        Raises ArtifactNameError, and ArtifactDataError for what would not come back the same.
        """
        with made_public():
            type_, content = artifacts.encode(data)
        return self.write(name, type_, [content], description, metadata)

    def write(
        self,
        name: str,
        type_: str,
        pieces: Iterable[bytes],
        description: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactInfo:
        """Keeps content that comes in pieces; `type_` says how it is read: "bytes", "text" or "json"."""
        with made_public():
            artifacts.check_name(name)
            if type_ not in artifacts.TYPES:
                raise ArtifactDataError(f"an artifact is one of {artifacts.TYPES}, not {type_!r}")
            artifacts.check_description(description)
            checked = artifacts.check_metadata(metadata)
        return self._store.write(name, type_, pieces, description, checked)

    def load(self, name: str) -> Any:
        """The value. Raises ArtifactNotFoundError, ArtifactNameError."""
        info, pieces = self.read(name)
        with made_public():
            return artifacts.decode(info.type, b"".join(pieces))

    def read(self, name: str) -> tuple[ArtifactInfo, Content]:
        """The content in pieces. Raises ArtifactNotFoundError, ArtifactNameError."""
        return self._store.read(_name(name))

    def delete(self, name: str) -> None:
        """Removes one, where there is one. Raises ArtifactNameError."""
        self._store.remove(_name(name))


def _name(name: str) -> str:
    with made_public():
        return artifacts.check_name(name)
