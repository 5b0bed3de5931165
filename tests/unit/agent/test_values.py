"""Values as data: exact where they are data, a bounded repr where they are not, and never an error."""

from __future__ import annotations

import base64
import collections
import datetime
import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto import values
from cellyard_proto.values import MAX_BYTES, MAX_DEPTH
from cellyard_sandbox.values import MAX_REPR, encode


def decode(tree: Any) -> Any:
    """A reader that follows the description in outputs.proto."""
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        match next(iter(tree.items())):
            case ("$bytes", text):
                return base64.b64decode(text)
            case ("$tuple", items):
                return tuple(decode(items))
            case ("$set", items):
                return set(decode(items))
            case ("$complex", [real, imaginary]):
                return complex(decode(real), decode(imaginary))
            case ("$datetime", text):
                return datetime.datetime.fromisoformat(text)
            case ("$float", text):
                return float(text)
            case ("$int", digits):
                return int(digits)
            case ("$dict", pairs):
                return {decode(key): decode(value) for key, value in pairs}
    return {key: decode(value) for key, value in tree.items()}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**15, max_value=10**30),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.sampled_from([None, datetime.UTC])),
)
HASHABLE = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(HASHABLE),
        st.dictionaries(HASHABLE, inner),
        st.dictionaries(st.one_of(st.text(), st.just("$set"), st.just("$x")), inner),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_data_comes_back_as_it_was(value: Any) -> None:
    encoded = encode(value)
    assert not encoded["is_repr"]
    decoded = decode(json.loads(encoded["json"]))
    assert decoded == value
    assert type(decoded) is type(value)
    assert values.decode(encoded["json"]) == value, "the kernel's own reader"
    encoded["json"].encode()


def test_floats_that_json_lacks() -> None:
    assert encode(math.inf)["json"] == '{"$float":"inf"}'
    assert math.isnan(decode(json.loads(encode(math.nan)["json"])))
    assert math.copysign(1, decode(json.loads(encode(-0.0)["json"]))) == -1


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.namedtuple("Point", "x y")(1, 2), (1, 2)),
        (Colour.RED, 1),
    ],
)
def test_kinds_of_the_data_types_are_data_too(value: Any, data: Any) -> None:
    encoded = encode(value)
    assert not encoded["is_repr"]
    assert decode(json.loads(encoded["json"])) == data


@pytest.mark.parametrize("value", [object(), len, bytearray(b"x"), frozenset({1}), range(3), datetime.date(2026, 1, 1)])
def test_everything_else_is_its_repr(value: Any) -> None:
    assert encode(value, "as shown") == {"json": json.dumps(repr(value)), "is_repr": True}
    assert encode([1, {"deep": value}])["is_repr"], "within data, too"


def test_what_is_too_large_or_too_deep_is_a_bounded_repr() -> None:
    deep: list[Any] = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in ("x" * (MAX_BYTES + 1), list(range(1_000_000)), deep, endless, b"x" * MAX_BYTES, 10**4_000_000):
        encoded = encode(value, "shown")
        assert encoded == {"json": '"shown"', "is_repr": True}
    long = encode("ü" * 3 * MAX_REPR * 16, "ü" * 2 * MAX_REPR)
    assert len(json.loads(long["json"])) == MAX_REPR + 1


@pytest.mark.parametrize(
    "text",
    ['{"$bytes":"ü"}', '{"$complex":[1]}', '{"$set":[[]]}', '{"$dict":[1]}', '{"$int":{}}', "[", "1e", "[" * 9999],
)
def test_text_that_is_no_value_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, RecursionError)):
        values.decode(text)


class Hostile(dict):  # type: ignore[type-arg]
    def __len__(self) -> int:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_values_that_raise_are_named() -> None:
    assert encode(Hostile()) == {"json": '"<Hostile object>"', "is_repr": True}


def test_lone_surrogates_in_text_are_kept_in_a_form_that_travels() -> None:
    encoded = encode("a\ud800")
    encoded["json"].encode()
    assert json.loads(encoded["json"]) == "a\ud800"
