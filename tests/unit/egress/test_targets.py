"""What a request to the proxy asks for, and requests that could be read in two ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.egress.names import Destination
from cellyard_controller.egress.targets import ADDRESS, HOST_DIFFERS, Denial, Denied, Malformed, Target, read


@pytest.mark.parametrize(
    ("method", "target", "hosts", "expected"),
    [
        (b"CONNECT", b"example.org:443", [], Target(Destination("example.org", 443), b"")),
        (b"CONNECT", b"Example.org.:443", [b"example.org"], Target(Destination("example.org", 443), b"")),
        (b"CONNECT", b"example.org:8443", [b"example.org:8443"], Target(Destination("example.org", 8443), b"")),
        (b"GET", b"http://example.org", [b"example.org"], Target(Destination("example.org", 80), b"/")),
        (b"GET", b"http://example.org?q=1", [b"example.org"], Target(Destination("example.org", 80), b"/?q=1")),
        (b"GET", b"HTTP://example.org:80/a", [b"example.org"], Target(Destination("example.org", 80), b"/a")),
        (b"POST", b"http://a.test:81/b?c=d", [b"A.test:81"], Target(Destination("a.test", 81), b"/b?c=d")),
    ],
)
def test_requests_as_clients_make_them(method: bytes, target: bytes, hosts: list[bytes], expected: Target) -> None:
    assert read(method, target, hosts) == expected


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        (b"CONNECT", b"allowed.test:443", b"other.test:443"),
        (b"CONNECT", b"allowed.test:443", b"allowed.test:80"),
        (b"CONNECT", b"allowed.test:443", b"10.0.0.1"),
        (b"CONNECT", b"allowed.test:443", b""),
        (b"GET", b"http://allowed.test/", b"other.test"),
        (b"GET", b"http://allowed.test:8080/", b"allowed.test"),
        (b"GET", b"http://allowed.test/", b"allowed.test, other.test"),
        (b"GET", b"http://allowed.test/", b"allowed.test@other.test"),
    ],
)
def test_a_host_header_that_names_another_server_is_refused(method: bytes, target: bytes, host: bytes) -> None:
    with pytest.raises(Denied) as denied:
        read(method, target, [host])
    assert (denied.value.denial.host, denied.value.denial.reason) == ("allowed.test", HOST_DIFFERS)


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        (b"127.0.0.1:80", Denial("127.0.0.1", 80, ADDRESS)),
        (b"[::1]:443", Denial("[::1]", 443, ADDRESS)),
        (b"[::ffff:10.0.0.1]:443", Denial("[::ffff:10.0.0.1]", 443, ADDRESS)),
        (b"2130706433:80", Denial("2130706433", 80, ADDRESS)),
        (b"0x7f.1:80", Denial("0x7f.1", 80, ADDRESS)),
    ],
)
def test_an_address_is_refused_whether_listed_or_not(target: bytes, shown: Denial) -> None:
    for method, asked in ((b"CONNECT", target), (b"GET", b"http://" + target + b"/")):
        with pytest.raises(Denied) as denied:
            read(method, asked, [target])
        assert denied.value.denial == shown


@pytest.mark.parametrize(
    ("method", "target"),
    [
        (b"GET", b"/path"),
        (b"GET", b"https://example.org/"),
        (b"GET", b"ftp://example.org/"),
        (b"GET", b"http://user@example.org/"),
        (b"GET", b"http://example.org\\@other.test/"),
        (b"GET", b"http://example.org#@other.test/"),
        (b"GET", b"http://ex%61mple.org/"),
        (b"GET", b"http://:80/"),
        (b"GET", b"http://example.org:80:81/"),
        (b"OPTIONS", b"*"),
        (b"CONNECT", b"example.org"),
        (b"CONNECT", b"example.org:"),
        (b"CONNECT", b"http://example.org:443"),
        (b"CONNECT", "exämple.org:443".encode()),
        (b"CONNECT", b"example.org:443/x"),
    ],
)
def test_what_is_not_understood_goes_nowhere(method: bytes, target: bytes) -> None:
    with pytest.raises((Malformed, Denied)):
        read(method, target, [])


def test_two_host_headers_go_nowhere() -> None:
    with pytest.raises(Malformed):
        read(b"GET", b"http://a.test/", [b"a.test", b"a.test"])


@given(st.sampled_from((b"GET", b"CONNECT")), st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=2))
def test_no_bytes_break_it_or_become_another_name(method: bytes, target: bytes, hosts: list[bytes]) -> None:
    try:
        found = read(method, target, hosts)
    except (Malformed, Denied):
        return
    assert found.destination.host.encode() in target.lower()
    assert b"\r" not in found.path
    assert b"\n" not in found.path
    assert b" " not in found.path
