"""By which names, and from which pages, the console may be asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.web.console.origins import ASKED, Origins, from_own_page, may_change

HOST = "127.0.0.1:8080"
ORIGINS = Origins(("Console.Example", "other.example:8443"))


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("10.1.2.3:8080", True),
        ("console.example", True),
        ("CONSOLE.example:99", True),
        ("other.example:8443", True),
        ("other.example", False),
        ("other.example:8444", False),
        ("10.1.2.4:8080", False),
        ("127.0.0.1", False),
        ("127.0.0.1:80", False),
        ("console.example:", False),
        ("console.example:x", False),
        ("console.example.evil.example", False),
        ("", False),
    ],
)
def test_a_host_is_known_where_it_is_named_or_the_connections_own(host: str, known: bool) -> None:
    assert ORIGINS.known_host(host, "10.1.2.3", 8080) is known


@given(st.text())
def test_no_other_text_is_a_known_host(host: str) -> None:
    named = host.lower() in {"127.0.0.1:8080", "localhost:8080", "[::1]:8080", "other.example:8443"}
    assert ORIGINS.known_host(host, "127.0.0.1", 8080) is (named or host.lower().startswith("console.example"))


@pytest.mark.parametrize(
    ("headers", "reads", "changes"),
    [
        ({}, True, False),
        ({ASKED: "1"}, True, True),
        ({"Sec-Fetch-Site": "none"}, True, False),
        ({ASKED: "1", "Sec-Fetch-Site": "none"}, True, False),
        ({ASKED: "1", "Sec-Fetch-Site": "same-origin", "Origin": f"http://{HOST}"}, True, True),
        ({ASKED: "1", "Origin": f"https://{HOST}"}, True, True),
        ({ASKED: "1", "Origin": f"http://{HOST}.evil.example"}, False, False),
        ({ASKED: "1", "Origin": "null"}, False, False),
        ({ASKED: "1", "Sec-Fetch-Site": "same-site"}, False, False),
        ({ASKED: "1", "Sec-Fetch-Site": "cross-site"}, False, False),
    ],
)
def test_what_pages_elsewhere_send_is_told_from_our_own(headers: dict[str, str], reads: bool, changes: bool) -> None:
    assert from_own_page(headers, HOST) is reads
    assert may_change(headers, HOST) is changes
