"""Keeps what a definition's headers hold out of messages."""

from __future__ import annotations

from collections.abc import Mapping

_OPEN = frozenset({"accept", "accept-charset", "accept-language", "content-type", "user-agent"})
_SHORTEST = 4


class Redaction:
    """Knows the values of headers, and the tokens behind their schemes, as in `Bearer TOKEN`."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        values = [value for name, value in headers.items() if name.lower() not in _OPEN]
        found = {part for value in values for part in (value, value.rpartition(" ")[2]) if len(part) >= _SHORTEST}
        self._secrets = sorted(found, key=len, reverse=True)

    def apply(self, text: str, *, cut: bool = False) -> str:
        """The text without them; of one that was `cut` its end goes too, which may be the beginning of one."""
        if cut and self._secrets:
            text = text[: -len(self._secrets[0])]
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
