"""TOML of strangers: pure.

The standard library's parser takes memory and time that grow with the square of the parts of a dotted key, so that a
file of 200 kB could take all there is. Such keys are found before it sees them.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from cellyard_controller.errors import InvalidRequest

_MOST_PARTS = 10
"""Of one key; nobody nests tables as deep."""
_TOKEN = re.compile(
    r"""
    (?P<text>\"{3}(?:[^\\]|\\.)*?\"{3}|'{3}.*?'{3}|\#[^\n]*)
    |(?P<part>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_+-]+)
    |(?P<dot>\.)
    |(?P<blank>[ \t]+)
    |(?P<open>["'])
    |(?P<other>.)
    """,
    re.DOTALL | re.VERBOSE,
)


def parse_toml(content: str, name: str) -> dict[str, Any]:
    """What the file says. `name`: what it is called where it is refused. Raises InvalidRequest."""
    parts = 0
    for token in _TOKEN.finditer(content):
        kind = token.lastgroup
        if kind == "open":
            break  # a string without an end: the parser comes no further than this either
        if kind == "part":
            parts += 1
            if parts > _MOST_PARTS:
                line = content.count("\n", 0, token.start()) + 1
                raise InvalidRequest(f"{name}, line {line}: a key has more than {_MOST_PARTS} parts")
        elif kind in ("text", "other"):
            parts = 0
    try:
        return tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as bad:
        raise InvalidRequest(f"{name} is no TOML: {str(bad) or 'nested too deeply'}") from None
