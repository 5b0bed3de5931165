"""What cells have shown, as a browser may have it: nothing that could run is ever part of a page.

An HTML output goes to the page as the hash of its content alone. The page shows it in a frame, whose document comes
from here with a policy of its own: no origin, no scripts, nothing from anywhere. Large parts are read from their files.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from io import FileIO
from typing import Any

from cellyard_proto.outputs import BlobRef

HTML = "text/html"
FRAMED = (HTML,)
"""Types that are shown in a frame."""
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
SVG = "image/svg+xml"
MAX_FRAME = 16 * 1024 * 1024
"""Bytes of a frame's document at most."""
FRAME_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; font-src data:; "
    "media-src data:; style-src 'unsafe-inline'; form-action 'none'; frame-ancestors 'self'"
)
"""Links open beside the console, without a way back to it; a frame itself goes nowhere."""
IMAGE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""For a picture that somebody opens by itself: SVG is a document then."""
_PIECE = 256 * 1024
_AHEAD = re.compile(r"<(?=/?(?:link|i?frame|frameset|fencedframe|object|embed|meta|base)(?![a-z]))", re.IGNORECASE)
"""Elements for which browsers look names up and open connections before they ask a policy whether they may."""
_ROW = re.compile(r"<(?:tr|li|p|br|div|h[1-6]|details|hr)\b", re.IGNORECASE)
"""What takes a line, more or less: a frame's height has to be guessed."""
_MOST_LINES = 16
_SPACE = re.compile(rb"\s")
_OPENING = (
    '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light"><base target="_blank">'
    "<style>body{font:14px/1.4 system-ui,sans-serif;margin:.4rem}table{border-collapse:collapse;border:0}"
    "th,td{padding:.15rem .6rem;border:0;text-align:right}thead{border-bottom:1px solid #888}"
    "tbody tr:nth-child(odd){background:#f5f5f5}</style>"
)


def without_html(told: Any) -> Any:
    """Events as a page gets them: each HTML is replaced by what its frame is asked for with."""
    if isinstance(told, list):
        return [without_html(each) for each in told]
    if not isinstance(told, dict):
        return told
    return {
        key: _framed(value) if key in FRAMED and isinstance(value, dict) else without_html(value)
        for key, value in told.items()
    }


def find_html(outputs: list[dict[str, Any]], digest: str) -> str | None:
    """The HTML with this digest among an execution's outputs."""
    for output in outputs:
        html = output.get("data", {}).get(HTML)
        if isinstance(html, list):
            html = "".join(map(str, html))
        if isinstance(html, str) and _digest(html) == digest:
            return html
    return None


def is_shown(outputs: list[dict[str, Any]], digest: str) -> bool:
    """Whether outputs have a large HTML with this digest."""
    values = (output.get("data", {}).get(HTML) for output in outputs)
    return any(isinstance(value, BlobRef) and value.digest == digest for value in values)


def frame(html: str) -> str:
    """The document of a frame.

    A policy keeps a document from loading anything, but not the browser from opening connections ahead of that, and a
    name that is looked up is a message to somebody. So elements that make it do so are others, without a meaning.
    """
    return _OPENING + _AHEAD.sub("<x-", html)


def decoded(file: FileIO) -> Iterator[bytes]:
    """A picture from its base64, piece by piece. Raises ValueError where it is none."""
    left = b""
    while content := file.read(_PIECE):
        content = left + _SPACE.sub(b"", content)
        whole = len(content) // 4 * 4
        content, left = content[:whole], content[whole:]
        yield base64.b64decode(content, validate=True)
    if left:
        raise ValueError("it ends in the middle of a group")


def pieces(file: FileIO) -> Iterator[bytes]:
    """A file as it is."""
    while content := file.read(_PIECE):
        yield content


def _framed(value: dict[str, Any]) -> dict[str, Any]:
    blob = value.get("blob")
    if isinstance(blob, dict):
        return {"frame": blob.get("digest", ""), "lines": _MOST_LINES}
    text = value.get("text", "")
    return {"frame": _digest(text), "lines": min(_MOST_LINES, 1 + len(_ROW.findall(text)))}


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"
