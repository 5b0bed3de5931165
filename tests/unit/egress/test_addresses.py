"""Which addresses count as public: against Python's own tables, and the spellings that lead inside."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.egress.addresses import of_this_machine, public

V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "169.254.169.254",
        "168.63.129.16", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.168.1.1", "198.18.0.1", "224.0.0.1",
        "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1",
        "ff02::1", "::7f00:1", "2001:db8::1", "100::1", "5f00::1", "fe80::1%lo", "not an address", "",
    ],
)  # fmt: skip
def test_what_is_not_on_the_public_internet_is_refused(address: str) -> None:
    assert not public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.15.0.1", "172.32.0.1", "168.63.129.17", "2606:4700:4700::1111"])
def test_public_addresses_are_public(address: str) -> None:
    assert public(address)


@given(st.one_of(V4, V6))
def test_nothing_counts_as_public_that_python_knows_to_be_something_else(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if public(str(address)):
        assert address.is_global
        others = ("private", "multicast", "loopback", "link_local", "reserved", "unspecified")
        assert [kind for kind in others if getattr(address, f"is_{kind}")] == []


@given(V4)
def test_an_ipv6_address_that_carries_an_ipv4_one_is_never_public(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    carriers = [f"::ffff:{address}", f"::{address}", f"64:ff9b::{address}"]
    carriers.append(str(ipaddress.IPv6Address(0x2002 << 112 | number << 80)))
    carriers.append(str(ipaddress.IPv6Address(0x2001 << 112 | number)))
    assert not any(public(carrier) for carrier in carriers)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_this_machines_own_addresses_are_recognised(address: str) -> None:
    assert of_this_machine(address)


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_other_machines_addresses_are_not_its_own(address: str) -> None:
    assert not of_this_machine(address)
