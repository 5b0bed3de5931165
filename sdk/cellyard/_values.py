"""Values from the sandbox and for it, as the protocol's tagged JSON. What cannot be read stays the text it was."""

from __future__ import annotations

from typing import Any

from cellyard_proto import values

_MAX_BYTES = 16 * 1024 * 1024  # the controller's limit of an answer, by default


def decode_value(text: str, *, is_repr: bool) -> tuple[Any, bool]:
    """The value, and whether it is a mere repr. Text that is no proper value is given back as a repr."""
    if not text:
        return None, False
    try:
        value = values.decode(text)
    except (ValueError, TypeError, KeyError, RecursionError):
        return text, True
    return value, is_repr


def decode_arguments(args: str, kwargs: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments. What cannot be read stays one argument, the text it was."""
    positional, _ = decode_value(args, is_repr=False)
    keywords, _ = decode_value(kwargs, is_repr=False)
    return (
        tuple(positional) if isinstance(positional, list) else (positional,),
        {str(name): value for name, value in keywords.items()} if isinstance(keywords, dict) else {},
    )


def encode_value(value: Any) -> str:
    """A value for the code. Raises TypeError for what is no data, ValueError for what is too large or too deep."""
    try:
        return values.encode(value, _MAX_BYTES)
    except values.NotData as bad:
        raise TypeError(f"a {bad} is no data that code in a sandbox could be given") from None
