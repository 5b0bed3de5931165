"""Names of servers, and the lists of those that a sandbox may reach. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_ENTRIES = 256
"""Entries of one list."""
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MAX_NAME = 253
_MAX_PORT = 65_535


class NotAName(ValueError):
    """No name of a server. The message says why."""


class AnAddress(NotAName):
    """An address, where only a name will do."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A server as a client names it."""

    host: str
    """Lower case, without a dot at its end."""
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def host_name(text: str) -> str:
    """The name in the one way in which it is written here. Raises NotAName, AnAddress."""
    name = text.lower().removesuffix(".")
    if "[" in name or ":" in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
        # "127.1", "0x7f000001" and "2130706433" are addresses too: resolvers take them for such.
        raise AnAddress(f"{text[:60]!r} is an address; only names are allowed")
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise NotAName(f"{text[:60]!r} is no name of a server")
    return name


def port_number(text: str) -> int:
    """A port. Raises NotAName."""
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= _MAX_PORT:
        raise NotAName(f"{text[:20]!r} is no port")
    return int(text)


class AllowList:
    """Names with ports. `*.example.org:443` means every name that ends in `.example.org`, and not that one itself."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Raises NotAName for an entry that is none, or where there are too many."""
        self._exact: set[Destination] = set()
        self._below: set[Destination] = set()
        for entry in entries:
            name, colon, port = entry.rpartition(":")
            if not colon:
                raise NotAName(f"{entry[:60]!r} has no port: write name:port")
            found = self._below if name.startswith("*.") else self._exact
            found.add(Destination(host_name(name.removeprefix("*.")), port_number(port)))
        if len(self._exact) + len(self._below) > MAX_ENTRIES:
            raise NotAName(f"a list has at most {MAX_ENTRIES} entries")

    def allows(self, destination: Destination) -> bool:
        """Whether this name and port are on the list."""
        if destination in self._exact:
            return True
        above = destination.host
        while "." in above:
            above = above.partition(".")[2]
            if Destination(above, destination.port) in self._below:
                return True
        return False
