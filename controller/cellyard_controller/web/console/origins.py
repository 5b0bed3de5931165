"""Where a request may come from: by which name the console is called, and from which page. Pure.

A page anywhere can have its own name lead to this machine (DNS rebinding), and can have a browser send requests here.
The first comes with that name in `Host`, the second with that page in `Origin` or `Sec-Fetch-Site`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

ASKED = "X-Cellyard"
"""A header that no form and no foreign page can send; it has to be there on whatever changes something."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Origins:
    """Names by which the console may be called."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: NAME or NAME:PORT, beside the address of the connection."""
        self._names = frozenset(name.lower() for name in names)

    def known_host(self, host: str, address: str, port: int) -> bool:
        """Whether a `Host` is this console's. `address`: the one of this machine that the connection came in on."""
        host = host.lower()
        bare = f"[{address}]" if ":" in address else address
        if host in {f"{each}:{port}" for each in (*_LOOPBACK, bare)}:
            return True
        name, colon, digits = host.rpartition(":")
        return host in self._names or (bool(colon) and digits.isdecimal() and name in self._names)


def from_own_page(headers: Mapping[str, str], host: str) -> bool:
    """Whether what a browser says of the page that a request comes from allows it; other clients say nothing."""
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2].lower() == host.lower()


def may_change(headers: Mapping[str, str], host: str) -> bool:
    """The same for what changes something: typed into an address bar, and sent by a form, it is refused."""
    if ASKED not in headers or headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        return False
    return from_own_page(headers, host)
