"""Outputs of executions as a model reads them: one text without colours, and images. Pure.

The text of an execution is the same each time it is made, so an offset into it keeps its meaning; while the code
runs it grows.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from cellyard._display import output_text, without_ansi
from cellyard.results import End, ExecutionResult, Output

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
MAX_IMAGES = 10
"""In one result."""
MAX_IMAGE_BYTES = 3_750_000
"""Of one image; 5 MB as base64, which is what models' interfaces take."""

_BARE_REPR = re.compile(r"<[\w.]+(?: object)?(?: at 0x[0-9a-f]+)?>|<Figure size [^>]*>")
_TEXTS = ("text/markdown", "text/latex", "image/svg+xml", "text/html", "application/json")


@dataclass(frozen=True, slots=True)
class Image:
    """An image that an execution has shown."""

    number: int
    """Counted from 1."""
    mime: str
    content: bytes
    at: int
    """Where in the text it stands."""

    @property
    def fits(self) -> bool:
        """Whether it is small enough to be shown."""
        return len(self.content) <= MAX_IMAGE_BYTES

    def base64(self) -> str:
        """As MCP carries it."""
        return base64.b64encode(self.content).decode("ascii")


@dataclass(frozen=True, slots=True)
class Rendered:
    """An execution's outputs."""

    text: str
    images: tuple[Image, ...]


def rendered(result: ExecutionResult) -> Rendered:
    """All that an execution has shown, in order. Each image leaves a line in the text."""
    outputs = list(result.outputs)
    if result.error is not None and result.error not in outputs:
        outputs.append(result.error)
    parts: list[str] = []
    images: list[Image] = []
    length = 0
    for output in outputs:
        image = _image(output)
        if image is not None:
            text = f"[image {len(images) + 1}: {image[0]}, {len(image[1]):,} bytes]\n"
        else:
            text = _text(output)
        if text and parts and output.output_type != "stream" and not parts[-1].endswith("\n"):
            text = "\n" + text
        if image is not None:
            images.append(Image(len(images) + 1, *image, at=length))
        if text:
            parts.append(text)
            length += len(text)
    return Rendered("".join(parts), tuple(images))


def ending(result: ExecutionResult) -> str:
    """How it stands with an execution, in a few words; the exception itself is among the outputs."""
    if result.end is None:
        return f"{result.status}: it has not ended"
    took = "" if result.duration is None else f" after {result.duration:.2f} s"
    why = result.end_message or result.end_reason
    return f"{result.end}{took}" + (f": {why}" if why and result.end is not End.SUCCEEDED else "")


def _image(output: Output) -> tuple[str, bytes] | None:
    for mime in IMAGES:
        content = (output.data or {}).get(mime)
        if isinstance(content, bytes) and content:
            return mime, content
    return None


def _text(output: Output) -> str:
    """Plain text where it says something, else the richest text that there is."""
    data = output.data
    if output.output_type in ("stream", "error") or not data:
        return output_text(output)
    plain = data.get("text/plain")
    if isinstance(plain, str) and not _BARE_REPR.fullmatch(plain.strip()):
        return f"{without_ansi(plain)}\n"
    for mime in _TEXTS:
        if mime in data:
            return f"{_as_text(data[mime])}\n"
    return output_text(output)


def _as_text(value: Any) -> str:
    return without_ansi(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
