"""What a request to the proxy asks for, read strictly: whoever could read it in two ways could go around a list."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cellyard_controller.egress.names import AnAddress, Destination, NotAName, host_name, port_number

_HTTP = 80
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|.*?)(?::(?P<port>[^:]*))?")
_ABSOLUTE = re.compile(rb"http://([^/?#@\\\s]*)([/?][^#\s]*)?", re.IGNORECASE)

NOT_LISTED = "not_listed"
ADDRESS = "address"
HOST_DIFFERS = "host_differs"
PRIVATE_ADDRESS = "private_address"
_SAYS = {
    NOT_LISTED: "it is not on this sandbox's list",
    ADDRESS: "it is an address, and only names are allowed",
    HOST_DIFFERS: "the Host header names another server than the request",
    PRIVATE_ADDRESS: "the name leads to an address that is not on the public internet",
}


class Malformed(ValueError):
    """No request that the proxy understands. The message says why."""


@dataclass(frozen=True, slots=True)
class Denial:
    """A connection that was refused, and why."""

    host: str
    port: int
    reason: str
    """`not_listed`, `address`, `host_differs` or `private_address`."""

    def __str__(self) -> str:
        says = _SAYS.get(self.reason, self.reason)
        return f"the connection to {self.host} port {self.port} was refused: {says}"


class Denied(Exception):
    """The request is understood and refused."""

    def __init__(self, denial: Denial) -> None:
        super().__init__(str(denial))
        self.denial = denial


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes, and what it asks for there."""

    destination: Destination
    path: bytes
    """Empty for CONNECT."""


def read(method: bytes, target: bytes, hosts: list[bytes]) -> Target:
    """The target of a request. `hosts` are its Host headers. Raises Malformed, Denied."""
    if len(hosts) > 1:
        raise Malformed("more than one Host header")
    if method == b"CONNECT":
        authority, path, default = target, b"", 0
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Malformed("the target is neither CONNECT host:port nor http://host/path")
        authority, path, default = absolute[1], absolute[2] or b"/", _HTTP
        path = path if path.startswith(b"/") else b"/" + path
    destination = _destination(authority, default)
    if hosts and not _same(hosts[0], destination, default):
        raise Denied(Denial(destination.host, destination.port, HOST_DIFFERS))
    return Target(destination, path)


def _destination(authority: bytes, default_port: int) -> Destination:
    """`host:port`; the port may be missing if there is a default. Raises Malformed, Denied."""
    split = _AUTHORITY.fullmatch(authority.decode("ascii", errors="replace"))
    if split is None:
        raise Malformed("the target is no name with a port")
    host, port_text = split["host"], split["port"]
    if port_text is None and not default_port:
        raise Malformed("the target has no port")
    try:
        port = default_port if port_text is None else port_number(port_text)
    except NotAName as bad:
        raise Malformed(str(bad)) from None
    try:
        return Destination(host_name(host), port)
    except AnAddress:
        raise Denied(Denial(host[:100], port, ADDRESS)) from None
    except NotAName as bad:
        raise Malformed(str(bad)) from None


def _same(header: bytes, destination: Destination, default_port: int) -> bool:
    """Whether a Host header names the destination. CONNECT's may come without the port."""
    try:
        named = _destination(header.strip(), default_port or destination.port)
    except (Malformed, Denied):
        return False
    return named == destination
