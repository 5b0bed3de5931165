"""The addresses that a canary tries in vain."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from cellyard_controller.runtimes.docker import canary

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.0.0/16 2 0 1
        |-- 10.1.0.0
           /16 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.255.255
           /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
"""
IF_INET6 = """fd000000000000000000000000000002 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_own_addresses_are_read_from_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    assert canary._own_v4(tmp_path / "fib_trie") == ["10.1.2.3", "127.0.0.1"]
    assert canary._own_v6(tmp_path / "if_inet6") == ["fd00::2", "::1"]


def test_a_kernel_without_a_protocol_has_no_table_of_it(tmp_path: Path) -> None:
    assert canary._own_v4(tmp_path / "none") == []
    assert canary._own_v6(tmp_path / "none") == []


def test_the_worlds_addresses_are_always_tried_and_ones_own_loopback_never() -> None:
    tried = [ipaddress.ip_address(address) for address, _ in canary.out_of_reach()]
    assert {ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")} <= set(tried)
    assert not any(address.is_loopback for address in tried)
