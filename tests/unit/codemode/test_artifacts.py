"""What artifacts are called, and how values become bytes that come back as the same values."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cellyard_proto.codemode import artifacts
from cellyard_proto.codemode.errors import ArtifactDataError, ArtifactNameError

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PARTS = st.text(min_size=1, max_size=8)


@patient
@given(st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=30))
@example("a/../../b")
@example("/a")
@example("..\\a")
@example("a\x00")
@example("é" * 101)
def test_a_name_is_one_that_stays_below_or_is_refused(name: str) -> None:
    try:
        assert artifacts.check_name(name) == name
    except ArtifactNameError:
        return
    parts = name.split("/")
    assert all(parts)
    assert not {".", ".."} & set(parts)
    assert not any(part.startswith(".") or len(part.encode()) > artifacts.MAX_PART for part in parts)
    assert "\\" not in name
    assert "\x00" not in name
    assert len(name) <= artifacts.MAX_NAME


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../a", "Path traversal"),
        ("a/../b", "Path traversal"),
        ("/a", "Path traversal"),
        ("a\\..\\b", "Path traversal"),
        ("..", "Path traversal"),
        (".", "Path traversal"),
        ("", "1 to 512"),
        ("a//b", "no empty part"),
        ("a/", "no empty part"),
        ("x" * 10_000_000, "1 to 512"),
        ("x" * 201, "200 bytes"),
        ("é" * 101, "200 bytes"),
        ("a\n", "printable"),
        ("a\u202eb", "printable"),
        ("\ud800", "printable"),
        (".artifacts.json", "Reserved"),
        ("a/.b", "Reserved"),
        ("__index__", "Reserved"),
        (None, "not NoneType"),
        (b"a", "not bytes"),
        (5, "not int"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_other_names_are_refused_with_the_reason(name: object, says: str) -> None:
    with pytest.raises(ArtifactNameError, match=says) as refused:
        artifacts.check_name(name)
    assert len(str(refused.value)) < 800


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


@patient
@given(values)
@example(10**5000)
@example({"a": -(10**5000)})
@example(-0.0)
@example("\ud800")
@example(["\ud800"])
@example({"\udfff": 1})
def test_a_value_comes_back_as_it_was_or_is_refused(value: Any) -> None:
    try:
        type_, content = artifacts.encode(value)
    except ArtifactDataError:
        return
    back = artifacts.decode(type_, content)
    assert repr(back) == repr(value)
    assert type(back) is type(value)


def looped() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ((1, 2), "a tuple"),
        ([{1}], "a set"),
        ({"a": object()}, "an? object"),
        (float("nan"), "nan"),
        ([float("-inf")], "-inf"),
        ({1: 2}, "no str: a int"),
        ({None: 2}, "no str: a NoneType"),
        ({10**5000: 2}, "no str"),
        (Colour.RED, "a Colour"),
        ([Text("x")], "a Text"),
        ({Text("x"): 1}, "no str"),
        (looped(), "nested more than 100 deep"),
        (10**5000, "cannot be kept"),
        ("\ud800", "surrogate"),
        (1j, "a complex"),
        ([b"x"], "a bytes"),
    ],
    ids=range(16),
)
def test_what_would_not_come_back_is_refused_with_the_reason(value: Any, says: str) -> None:
    with pytest.raises(ArtifactDataError, match=says) as refused:
        artifacts.encode(value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("value", [bytearray(b"ab"), memoryview(b"ab"), memoryview(b"axbx")[::2]], ids=range(3))
def test_whatever_holds_bytes_is_kept_as_bytes(value: Any) -> None:
    assert artifacts.encode(value) == ("bytes", b"ab")


def test_containers_may_be_nested_a_hundred_deep() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert artifacts.decode(*artifacts.encode(value)) == value
    with pytest.raises(ArtifactDataError, match="deep"):
        artifacts.encode([value])


def test_json_is_for_people_too() -> None:
    assert artifacts.encode({"ü": [1]}) == ("json", b'{\n  "\xc3\xbc": [\n    1\n  ]\n}')


@pytest.mark.parametrize(
    ("type_", "content"),
    [
        ("json", b"{"),
        ("json", b""),
        ("json", b"\xff"),
        ("json", b"[" * 100_000),
        ("json", b"9" * 5000),
        ("text", b"\xff"),
    ],
    ids=range(6),
)
def test_content_that_is_not_of_its_type_is_told(type_: str, content: bytes) -> None:
    with pytest.raises(ArtifactDataError, match=f"no {type_}"):
        artifacts.decode(type_, content)


@patient
@given(st.binary())
def test_bytes_of_any_type_are_a_value_or_told(content: bytes) -> None:
    for type_ in artifacts.TYPES:
        try:
            artifacts.decode(type_, content)
        except ArtifactDataError:
            assert type_ != "bytes"


@patient
@given(st.dictionaries(st.text(), values) | values)
@example({"a": 10**5000})
@example({"a": "\ud800"})
def test_metadata_is_plain_data_or_refused(metadata: Any) -> None:
    try:
        checked = artifacts.check_metadata(metadata)
    except ArtifactDataError:
        return
    assert checked == (metadata or {})
    assert not any(key.startswith("_") for key in checked)
    assert json.loads(json.dumps(checked)) == checked


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ([], "a dict, not list"),
        ({"_data_type": "text"}, "reserved"),
        ({"a": "x" * 65_536}, "more than 65536"),
        ({1: 1}, "str"),
    ],
    ids=range(4),
)
def test_other_metadata_is_refused_with_the_reason(metadata: Any, says: str) -> None:
    with pytest.raises(ArtifactDataError, match=says):
        artifacts.check_metadata(metadata)


def test_metadata_is_a_copy() -> None:
    given = {"a": 1}
    artifacts.check_metadata(given)["b"] = 2
    assert given == {"a": 1}
    assert artifacts.check_metadata(None) == {}


@pytest.mark.parametrize("description", ["x" * 4097, "\ud800", None, b"x"], ids=lambda value: ascii(value)[:10])
def test_other_descriptions_are_refused(description: object) -> None:
    with pytest.raises(ArtifactDataError, match="description"):
        artifacts.check_description(description)
