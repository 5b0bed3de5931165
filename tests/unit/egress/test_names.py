"""Names of servers and lists of them: what is on a list and what only looks as if it were."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cellyard_controller.egress.names import MAX_ENTRIES, AllowList, AnAddress, Destination, NotAName, host_name

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)
PORT = st.integers(1, 65_535)


def allows(entries: list[str], host: str, port: int = 443) -> bool:
    return AllowList(entries).allows(Destination(host_name(host), port))


def test_an_entry_is_one_name_and_one_port() -> None:
    listed = ["pypi.example:443"]
    assert allows(listed, "pypi.example")
    assert allows(listed, "PyPI.Example.")
    assert not allows(listed, "pypi.example", 80)
    assert not allows(listed, "www.pypi.example")
    assert not allows(listed, "notpypi.example")
    assert not allows(listed, "pypi.example.evil.test")


def test_a_star_means_everything_below_a_name_and_not_the_name_itself() -> None:
    listed = ["*.example.org:443"]
    assert allows(listed, "a.example.org")
    assert allows(listed, "deep.down.example.org")
    assert not allows(listed, "example.org")
    assert not allows(listed, "evilexample.org")
    assert not allows(listed, "a.example.org", 80)


def test_an_empty_list_allows_nothing() -> None:
    assert not allows([], "example.org")


@pytest.mark.parametrize(
    "entry",
    [
        "example.org", "example.org:", "example.org:0", "example.org:65536", "example.org:https", "*:443", "*.:443",
        "a.*.org:443", "exa mple.org:443", "https://example.org:443", "user@example.org:443", "-a.org:443", ":443",
        "é.org:443", "10.0.0.1:443", "[::1]:443", "127.1:80", "0x7f000001:80", "2130706433:80", "*.0.0.1:80",
        "a..b:80", "x" * 254 + ":80",
    ],
)  # fmt: skip
def test_what_is_no_name_with_a_port_cannot_be_listed(entry: str) -> None:
    with pytest.raises(NotAName):
        AllowList([entry])


def test_a_list_is_bounded() -> None:
    with pytest.raises(NotAName, match=str(MAX_ENTRIES)):
        AllowList(f"host{number}.test:443" for number in range(MAX_ENTRIES + 1))


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1", "127.1", "0x7f.1", "0X7F000001", "017700000001", "2130706433", "::1", "[::1]", "::ffff:10.0.0.1",
        "fe80::1%eth0", "1.2.3.4.", "example.1",
    ],
)  # fmt: skip
def test_an_address_in_any_spelling_is_no_name(text: str) -> None:
    with pytest.raises(AnAddress):
        host_name(text)


@given(NAME, PORT, NAME, PORT)
def test_a_list_of_one_allows_that_one_alone(name: str, port: int, other: str, other_port: int) -> None:
    listed = AllowList([f"{name}:{port}"])
    assert listed.allows(Destination(name, port))
    assert listed.allows(Destination(other, other_port)) == ((other, other_port) == (name, port))


@given(NAME, NAME, PORT)
def test_a_star_allows_exactly_what_ends_in_a_dot_and_the_name(name: str, other: str, port: int) -> None:
    listed = AllowList([f"*.{name}:{port}"])
    assert listed.allows(Destination(f"{other}.{name}", port))
    assert listed.allows(Destination(other, port)) == other.endswith(f".{name}")


@given(NAME)
def test_a_name_is_written_in_one_way(name: str) -> None:
    assert host_name(name.upper() + ".") == host_name(name) == name


@given(st.text(max_size=40))
def test_no_text_is_a_name_that_could_be_read_otherwise(text: str) -> None:
    try:
        name = host_name(text)
    except NotAName:
        return
    assume(name)
    assert name.isascii()
    assert not set(name) & set("/:@#?[]%\\ \r\n\t\0*")
