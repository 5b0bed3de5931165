"""YAML of tools: data and lines, and nothing that is more than that."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cellyard.codemode.tools.folder import MAX_DEFINITION
from cellyard.codemode.tools.located_yaml import MAX_NODES, BadYaml, read


def refused(text: str | bytes) -> tuple[int, str]:
    with pytest.raises(BadYaml) as caught:
        read(text if isinstance(text, bytes) else text.encode())
    return caught.value.line, str(caught.value)


def test_every_part_knows_its_line() -> None:
    found = read(b"name: a\nschema:\n  options:\n    b: {type: string}\n  positional:\n    - name: c\n    - name: d\n")
    assert found.data == {
        "name": "a",
        "schema": {"options": {"b": {"type": "string"}}, "positional": [{"name": "c"}, {"name": "d"}]},
    }
    assert found.line(("name",)) == 1
    assert found.line(("schema", "options", "b", "type")) == 4
    assert found.line(("schema", "positional", 1)) == 7
    assert found.line(("schema", "positional", 1, "nothing", 3)) == 7
    assert found.line(("nowhere",)) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1.5", -1.5),
        ("1e3", 1000.0),
        ("'12'", "12"),
        ("0755", "0755"),
        ("12:30", "12:30"),
        ("2026-11-22", "2026-11-22"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        ("n", "n"),
        ("-", [None]),
        ("1" * 400, "1" * 400),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = read(text.encode() + b"\n").data
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: !!python/object/apply:os.system [id]\n", 2, "tag"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: 1\nb: &x [1]\nc: *x\n", 2, "anchor"),
        ("a: *x\n", 1, "alias"),
        ("x: 1\n<<: {a: 1}\n", 2, "merge"),
        ("a: 1\nb: 2\na: 3\n", 3, "second time; it stands on line 1"),
        ("a:\n\t- b\n", 2, "no YAML"),
        ("a: b: c\n", 1, "no YAML"),
        ("a: 1\nb: [1, 2\n", 3, "no YAML"),
        ("a: 1\nb: x\x00y\n", 2, "U+0000"),
        ("a: 1\nb: x\x07y\n", 2, "U+0007"),
        ('a: 1\nb: "x\\0y"\n', 2, "zero byte"),
        ("? [a]\n: 1\n", 1, "key"),
        ("&a b: 1\n", 1, "key"),
        ("a: 1\n---\nb: 2\n", 3, "second document"),
    ],
)
def test_what_is_more_than_data_is_refused_where_it_stands(text: str, line: int, says: str) -> None:
    at, message = refused(text)
    assert at == line
    assert says in message


def test_a_bomb_of_aliases_does_not_go_off() -> None:
    lines = ["a0: &a0 [lol]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert refused("\n".join(lines)) == (1, "an anchor (&a0); anchors are not taken")


def test_depth_and_amount_are_bounded() -> None:
    assert "deep" in refused("[" * 10_000)[1]
    assert "deep" in refused("{a: " * 10_000)[1]
    assert str(MAX_NODES) in refused("[" + "1," * (MAX_NODES + 1) + "]")[1]
    assert "1 MiB" in refused(b"a: " + b"x" * (10 * 1000 * 1000))[1]
    assert len(read(b"a: " + b"x" * (MAX_DEFINITION - 3)).data["a"]) == MAX_DEFINITION - 3


def test_what_is_not_utf8_is_refused_with_its_line() -> None:
    assert refused(b"a: 1\nb: \xff\n") == (2, "not UTF-8 (byte 0xff)")
    assert "UTF-8" in refused("a: 1\n".encode("utf-16"))[1]
    assert read(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        found: object = read(text.encode(errors="surrogatepass")).data
    except BadYaml as bad:
        found = bad.line
    assert isinstance(found, dict | list | str | int | float | bool | None)


_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20).filter(str.isprintable),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc_-", min_size=1), inner, max_size=4),
    max_leaves=20,
)


@given(_DATA)
def test_data_come_back_from_yaml_that_others_write(data: object) -> None:
    # Quoted, so that dates and the like, which the writer quotes by its own rules, are text in both.
    text = yaml.safe_dump(data, default_style='"') if isinstance(data, str) else yaml.safe_dump(data)
    if "&id" not in text:
        assert read(text.encode()).data == data
