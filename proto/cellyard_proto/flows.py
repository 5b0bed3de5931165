"""Flow control of the agent link's flows, the same at both ends (link.proto, FlowFrame).

Each end may send content that costs WINDOW, and then as much as the other end gives it credit for. So what waits
unread is bounded, however slow whoever reads is, and chunks of many flows and all else on the link take turns.
"""

from __future__ import annotations

CHUNK = 64 * 1024
"""Bytes of content in one frame, at most. A longer one is a fault of the peer."""

FRAME_COST = 256
"""What a frame with content costs besides its bytes, so that many small ones are bounded too."""

WINDOW = 4 * (CHUNK + FRAME_COST)
"""Cost of the content that may be under way in one direction of one flow."""

MAX_FLOWS = 16
"""Flows of one sandbox at a time."""

MAX_PATH = 4095
MAX_NAME = 255
"""Bytes of a path and of each name in it, as Linux has it."""


def cost(content: bytes | memoryview) -> int:
    """What a frame with this content costs."""
    return len(content) + FRAME_COST


def room(credit: int) -> int:
    """Bytes of content that the next frame may have; 0 for none."""
    return max(0, min(CHUNK, credit - FRAME_COST))


def split_path(path: str) -> list[str]:
    """The names in a path that is relative to the home; none for the home itself. Raises ValueError, saying why."""
    if "\0" in path:
        raise ValueError("a path has no NUL")
    if path.startswith("/"):
        raise ValueError("a path is relative to the home")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise ValueError("a path is Unicode text") from None
    if size > MAX_PATH:
        raise ValueError(f"a path has at most {MAX_PATH} bytes, not {size}")
    names = [name for name in path.split("/") if name not in ("", ".")]
    for name in names:
        if name == "..":
            raise ValueError("a path does not climb (..)")
        if len(name.encode()) > MAX_NAME:
            raise ValueError(f"a name has at most {MAX_NAME} bytes")
    return names
