"""Values from the sandbox are data: decoded where they can be, kept as text where not."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard._values import decode_arguments, decode_value, encode_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("true", True),
        ("3", 3),
        ("3.5", 3.5),
        ('"text"', "text"),
        ("[1, [2]]", [1, [2]]),
        ('{"a": {"b": 1}}', {"a": {"b": 1}}),
        ('{"$bytes": "AAH/"}', b"\x00\x01\xff"),
        ('{"$tuple": [1, {"$tuple": []}]}', (1, ())),
        ('{"$set": [1, {"$tuple": [2]}]}', {1, (2,)}),
        ('{"$complex": [1, -2.5]}', 1 - 2.5j),
        ('{"$complex": [{"$float": "inf"}, 0]}', complex("inf")),
        ('{"$datetime": "2026-01-02T03:04:05+00:00"}', datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ('{"$float": "-inf"}', -math.inf),
        ('{"$int": "123456789012345678901234567890"}', 123456789012345678901234567890),
        ('{"$dict": [[1, "a"], [{"$tuple": [1]}, {"$bytes": ""}]]}', {1: "a", (1,): b""}),
        ('{"$dict": [["$int", 1]]}', {"$int": 1}),
        ('{"$unknown": 1}', {"$unknown": 1}),
        ('{"$int": "1", "b": 2}', {"$int": "1", "b": 2}),
    ],
)
def test_tagged_values_are_decoded(text: str, value: Any) -> None:
    decoded, is_repr = decode_value(text, is_repr=False)
    assert (decoded, type(decoded), is_repr) == (value, type(value), False)


def test_not_a_number_is_one() -> None:
    decoded, _ = decode_value('{"$float": "nan"}', is_repr=False)
    assert math.isnan(decoded)


def test_no_value_is_none() -> None:
    assert decode_value("", is_repr=False) == (None, False)


def test_a_repr_stays_one() -> None:
    assert decode_value('"<object>"', is_repr=True) == ("<object>", True)


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        '{"$bytes": "***"}',
        '{"$bytes": 5}',
        '{"$set": [[1]]}',
        '{"$set": 5}',
        '{"$complex": [1]}',
        '{"$complex": ["a", "b"]}',
        '{"$datetime": "yesterday"}',
        '{"$datetime": 5}',
        '{"$float": "1e5"}',
        '{"$int": "one"}',
        '{"$dict": [[1]]}',
        '{"$dict": [[[1], 2]]}',
        "[" * 100_000,
        '{"$tuple": [' * 3_000 + "]}" * 3_000,
    ],
)
def test_what_is_no_value_stays_text(text: str) -> None:
    assert decode_value(text, is_repr=False) == (text, True)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_plain_json_comes_through(value: Any) -> None:
    assert decode_value(json.dumps(value), is_repr=False) == (value, False)


@given(st.text())
def test_nothing_that_a_sandbox_says_raises(text: str) -> None:
    decode_value(text, is_repr=False)


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.just("$int"), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(_PLAIN)
def test_what_is_given_to_code_is_what_it_gets(value: Any) -> None:
    assert decode_value(encode_value(value), is_repr=False) == (value, False)


@pytest.mark.parametrize("value", [object(), [print], {"a": {1: lambda: None}}])
def test_what_is_no_data_is_not_given_to_code(value: Any) -> None:
    with pytest.raises(TypeError, match="no data"):
        encode_value(value)


def test_arguments_that_cannot_be_read_stay_the_text_they_were() -> None:
    assert decode_arguments('[1, {"$tuple": [2]}]', '{"a": 3}') == ((1, (2,)), {"a": 3})
    assert decode_arguments("[", "{") == (("[",), {})
