"""Outputs as text and as HTML for people.

Code in a sandbox is untrusted, and so is what it shows: HTML goes into a frame without scripts and without the
origin of the page around it, SVG into an image, everything else is escaped.
"""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cellyard.results import ExecutionResult, Output

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_PRE = '<pre style="margin:0;white-space:pre-wrap{style}">{text}</pre>'


def without_ansi(text: str) -> str:
    """The text without terminal colours and other escape sequences."""
    return _ANSI.sub("", text)


def shorten(text: str, length: int = 60) -> str:
    """The start of a text, for a repr."""
    return text if len(text) <= length else text[: length - 1] + "…"


def output_text(output: Output) -> str:
    """One output as plain text."""
    if output.output_type == "stream":
        return without_ansi(output.text or "")
    if output.output_type == "error":
        lines = output.traceback or [f"{output.ename}: {output.evalue}"]
        return without_ansi("\n".join(lines)) + "\n"
    data = output.data or {}
    for mime in ("text/plain", "text/markdown", "text/latex"):
        if isinstance(data.get(mime), str):
            return f"{without_ansi(data[mime])}\n"
    return f"<{', '.join(sorted(data))}>\n" if data else ""


def result_text(result: ExecutionResult) -> str:
    """All outputs as plain text; a display starts on a line of its own."""
    parts: list[str] = []
    outputs = list(result.outputs)
    error = result._error_output()  # code mode's results have a text for `error`
    if error is not None and error not in outputs:
        outputs.append(error)
    for output in outputs:
        text = output_text(output)
        if parts and output.output_type != "stream" and not parts[-1].endswith("\n"):
            text = "\n" + text
        if text:
            parts.append(text)
    return "".join(parts)


def output_html(output: Output) -> str:
    """One output as a notebook would show it."""
    if output.output_type == "stream":
        style = ";background:#fdd" if output.name == "stderr" else ""
        return _PRE.format(style=style, text=html.escape(without_ansi(output.text or "")))
    if output.output_type == "error":
        return _PRE.format(style=";color:#a00", text=html.escape(output_text(output)))
    data = output.data or {}
    for mime in _IMAGES:
        if isinstance(data.get(mime), bytes):
            return _image(mime, data[mime])
    if isinstance(data.get("image/svg+xml"), str):
        return _image("image/svg+xml", data["image/svg+xml"].encode())
    if isinstance(data.get("text/html"), str):
        page = html.escape(data["text/html"], quote=True)
        return f'<iframe sandbox="" srcdoc="{page}" style="width:100%;height:20em;border:0"></iframe>'
    return _PRE.format(style="", text=html.escape(output_text(output)))


def result_html(result: ExecutionResult) -> str:
    """All outputs as a notebook would show them."""
    outputs = list(result.outputs)
    error = result._error_output()  # code mode's results have a text for `error`
    if error is not None and error not in outputs:
        outputs.append(error)
    return "".join(f"<div>{output_html(output)}</div>" for output in outputs)


def _image(mime: str, content: bytes) -> str:
    return f'<img src="data:{mime};base64,{base64.b64encode(content).decode("ascii")}">'
