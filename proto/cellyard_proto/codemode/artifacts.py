"""Artifacts: what they are called, and how values become bytes that come back as the same values."""

from __future__ import annotations

import json
import math
from typing import Any

from cellyard_proto.codemode.errors import ArtifactDataError, ArtifactNameError

MAX_NAME = 512
"""Characters of a name."""
MAX_PART = 200
"""Bytes of each of its parts, as file systems have it."""
MAX_DESCRIPTION = 4096
"""Characters of a description."""
MAX_METADATA = 64 * 1024
"""Bytes of the metadata's JSON."""
INLINE = 512 * 1024
"""Bytes of a content that is handed to running code in an answer; a larger one goes through a file in its home."""
MAX_DEPTH = 100
"""Containers within containers."""

TYPES = ("bytes", "text", "json")
"""How an artifact's bytes are read: as they are, as UTF-8, as JSON (RFC 8259)."""


def check_name(name: object) -> str:
    """An artifact's name: parts, with / between them. Raises ArtifactNameError for one that is empty or climbs."""
    if not isinstance(name, str):
        raise ArtifactNameError(f"an artifact's name is a str, not {type(name).__name__}")
    parts = name.split("/")
    if name.startswith("/") or "\\" in name or any(part in (".", "..") for part in parts):
        raise ArtifactNameError(f"Path traversal attempt detected: {name[:100]!r}")
    if not name or len(name) > MAX_NAME or "" in parts:
        raise ArtifactNameError(f"an artifact's name has 1 to {MAX_NAME} characters and no empty part: {name[:100]!r}")
    if not name.isprintable():
        raise ArtifactNameError(f"an artifact's name is printable: {name[:100]!r}")
    if any(len(part.encode()) > MAX_PART for part in parts):
        raise ArtifactNameError(f"each part of an artifact's name has at most {MAX_PART} bytes: {name[:100]!r}")
    if any(part.startswith(".") for part in parts) or "__index__" in parts:
        raise ArtifactNameError(f"Reserved artifact name: {name[:100]!r}")
    return name


def kept_path(workspace_id: str | None, name: str) -> str:
    """What comes closest to a path, where a controller keeps an artifact."""
    return f"controller:{workspace_id or ''}/{name}"


def encode(data: object) -> tuple[str, bytes]:
    """A value's type and its bytes: bytes, str, and what JSON holds: None, bool, int, float, lists, dicts by str.

    Raises ArtifactDataError for anything else, because it would come back as something else: a tuple, a NaN.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return "bytes", bytes(data)
    if isinstance(data, str):
        try:
            return "text", data.encode()
        except UnicodeEncodeError:
            raise ArtifactDataError("the text holds half of a surrogate pair, which UTF-8 cannot have") from None
    _check_json(data, "the value", 0)
    try:
        return "json", json.dumps(data, ensure_ascii=False, allow_nan=False, indent=2).encode()
    except UnicodeEncodeError:
        raise ArtifactDataError("the value holds half of a surrogate pair, which UTF-8 cannot have") from None
    except ValueError as bad:  # an int of more digits than Python reads back
        raise ArtifactDataError(f"the value cannot be kept: {bad}") from None


def decode(type_: str, content: bytes) -> Any:
    """The value again. Raises ArtifactDataError where the bytes are not what the type says."""
    try:
        if type_ == "json":
            return json.loads(content)
        return content.decode() if type_ == "text" else content
    except (ValueError, RecursionError) as bad:
        raise ArtifactDataError(f"the artifact is no {type_}: {bad}") from None


def check_description(description: object) -> str:
    """Raises ArtifactDataError for one that is no text, or too long."""
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION:
        raise ArtifactDataError(f"a description is a str of at most {MAX_DESCRIPTION} characters")
    try:
        description.encode()
    except UnicodeEncodeError:
        raise ArtifactDataError("the description holds half of a surrogate pair, which UTF-8 cannot have") from None
    return description


def check_metadata(metadata: object) -> dict[str, Any]:
    """An artifact's metadata: a dict that JSON holds. Raises ArtifactDataError."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise ArtifactDataError(f"metadata is a dict, not {type(metadata).__name__}")
    _check_json(metadata, "the metadata", 0)
    if any(key.startswith("_") for key in metadata):
        raise ArtifactDataError("keys of metadata that begin with _ are reserved")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ArtifactDataError("the metadata holds half of a surrogate pair, which UTF-8 cannot have") from None
    except ValueError as bad:
        raise ArtifactDataError(f"the metadata cannot be kept: {bad}") from None
    if size > MAX_METADATA:
        raise ArtifactDataError(f"the metadata takes {size} bytes, more than {MAX_METADATA}")
    return dict(metadata)


def _check_json(value: object, what: str, depth: int) -> None:
    """Raises ArtifactDataError for what would not come back the same. Subclasses come back as their bases: refused."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return
    if kind is float:
        if not math.isfinite(value):  # type: ignore[arg-type]
            raise ArtifactDataError(f"{what} holds {value}, which JSON cannot have")
        return
    if depth >= MAX_DEPTH:
        raise ArtifactDataError(f"{what} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, list) and kind is list:
        for item in value:
            _check_json(item, what, depth + 1)
    elif isinstance(value, dict) and kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ArtifactDataError(f"{what} has a key that is no str: a {type(key).__name__}")
            _check_json(item, what, depth + 1)
    else:
        raise ArtifactDataError(f"{what} holds a {kind.__name__}, which would not come back as one")
