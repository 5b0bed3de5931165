"""Text from a kernel, made fit for UTF-8."""

from __future__ import annotations

from typing import Any


def clean(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones replaced by U+FFFD; all other text as it is."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean_tree(value: Any) -> Any:
    """A JSON value with every string and key cleaned. Raises RecursionError where it is nested too deep."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_tree(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean_tree(item) for key, item in value.items()}
    return value


def cut(text: str, size: int) -> str:
    """The longest start of the text that is at most `size` bytes in UTF-8. The text must be clean."""
    if len(text) * 4 <= size:
        return text
    if text.isascii():
        return text[:size]
    return text[:size].encode()[:size].decode(errors="ignore")


def size_of(text: str) -> int:
    """Bytes of clean text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
