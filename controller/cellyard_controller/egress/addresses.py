"""Which addresses a name may lead to: those of the public internet, and none of this machine's."""

from __future__ import annotations

import ipaddress
import socket

_V4_REFUSED = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' own; a cloud's metadata too
        "127.0.0.0/8",
        "168.63.129.16/32",  # public by its number, and a cloud's metadata all the same
        "169.254.0.0/16",  # link-local: most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays to 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_V6_PUBLIC = ipaddress.IPv6Network("2000::/3")
_V6_REFUSED = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo and other special purposes
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries an IPv4 address
        "3fff::/20",
    )
)


def public(text: str) -> bool:
    """Whether this is an address of the public internet.

    Loopback, private, link-local, multicast, documentation, clouds' metadata, and IPv6 addresses that carry an IPv4 one
    (mapped, 6to4, NAT64, Teredo) are not. Anything unknown is not either.
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _V4_REFUSED)
    return address in _V6_PUBLIC and not any(address in network for network in _V6_REFUSED)


def of_this_machine(text: str) -> bool:
    """Whether a packet to this address would not leave the machine. An address that cannot be reached counts as no."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((text, 9))  # sends nothing: the kernel looks for the way, and the address to come from
        except OSError:
            return False
        source = ipaddress.ip_address(asking.getsockname()[0])
    return source.is_loopback or source == ipaddress.ip_address(text)
