"""Command lines: values stay values, whatever they are."""

from __future__ import annotations

import argparse
import getopt
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cellyard.codemode.errors import ToolCallError, ToolNotFoundError
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools.command_lines import command_line, outline
from cellyard.codemode.tools.definitions import CliDefinition
from cellyard.codemode.tools.parsing import parse

CURL = """
name: curl
description: HTTP
tags: [web]
schema:
  options:
    silent: {type: boolean, short: s}
    location: {type: boolean}
    max-time: {type: integer, short: m, default: 300}
    rate: {type: number}
    header: {type: array, short: H, description: one header each}
    data: {type: string}
  positional:
    - {name: url, required: true, description: where to}
recipes:
  get:
    description: GET
    preset: {silent: true, location: true, header: ["Accept: */*"]}
    params:
      url: {description: the address}
      max-time: {default: 30}
  post:
    params: {url: {}, data: {required: true}}
  all: {}
"""


def cli(text: str) -> CliDefinition:
    definition = parse(StoredTool("t", dedent(text).encode(), "t.yaml"))
    assert isinstance(definition, CliDefinition)
    return definition


def line(text: str, recipe: str | None = None, /, **args: Any) -> list[str]:
    return command_line(cli(text), recipe, args)


def refused(text: str, recipe: str | None = None, /, **args: Any) -> str:
    with pytest.raises(ToolCallError) as caught:
        line(text, recipe, **args)
    return caught.value.message


def test_options_come_in_the_order_of_the_schema_then_positionals() -> None:
    assert line(CURL, url="http://x", data="a b", header=["A: 1", "B: 2"], max_time=5, rate=1.5, silent=True) == [
        "curl", "-s", "-m", "5", "--rate", "1.5", "-H", "A: 1", "-H", "B: 2", "--data", "a b", "http://x",
    ]  # fmt: skip


def test_the_call_goes_before_the_preset_and_that_before_the_default() -> None:
    assert line(CURL, "get", url="u") == ["curl", "-s", "--location", "-m", "30", "-H", "Accept: */*", "u"]
    assert line(CURL, "get", url="u", silent=False, max_time=1, header=[]) == ["curl", "--location", "-m", "1", "u"]
    assert line(CURL, "get", url="u", silent=None) == line(CURL, "get", url="u")


def test_what_the_schema_calls_a_default_is_what_the_command_does_by_itself() -> None:
    assert line(CURL, url="u") == ["curl", "u"]


def test_an_underscore_stands_for_a_hyphen() -> None:
    assert line(CURL, url="u", max_time=1) == line(CURL, url="u", **{"max-time": 1})
    assert "given twice" in refused(CURL, url="u", max_time=1, **{"max-time": 1})


def test_what_is_not_known_is_refused_with_what_is() -> None:
    assert refused(CURL, "get", url="u", verbose=True) == (
        "curl.get has no parameter 'verbose'. Known: silent, location, max_time, rate, header, data, url"
    )
    with pytest.raises(ToolNotFoundError, match=r"Unknown recipe: curl.put. Available: get, post, all"):
        line(CURL, "put", url="u")


def test_what_is_required_is_asked_for() -> None:
    assert "Required parameter 'url' is missing" in refused(CURL)
    assert "Required parameter 'url' is missing" in refused(CURL, "get")
    assert "Required parameter 'data' is missing" in refused(CURL, "post", url="u")
    assert "Required parameter 'out' is missing" in refused("name: t\nschema: {options: {out: {required: true}}}")
    assert "Required parameter 'url' is missing" in refused(CURL, url=None)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"url": 5}, "url must be a string, not int"),
        ({"url": "u", "silent": 1}, "silent must be a boolean, not int"),
        ({"url": "u", "max_time": True}, "max_time must be an integer, not bool"),
        ({"url": "u", "max_time": "5"}, "max_time must be an integer, not str"),
        ({"url": "u", "max_time": 5.0}, "max_time must be an integer, not float"),
        ({"url": "u", "rate": float("nan")}, "rate must be a number, not nan"),
        ({"url": "u", "rate": True}, "rate must be a number, not bool"),
        ({"url": "u", "header": "A"}, "header must be an array, not str"),
        ({"url": "u", "header": ["A", None]}, "header must be an array of strings and numbers, but holds None"),
        ({"url": "u", "header": [True]}, "header must be an array of strings and numbers, but holds bool"),
        ({"url": "u\0v"}, "url holds a zero byte"),
        ({"url": "u", "header": ["a\0"]}, "header holds a zero byte"),
        ({"url": "\ud800"}, "url holds half of a surrogate pair"),
        ({"url": {}}, "url must be a string, not dict"),
    ],
)
def test_types_are_checked(args: dict[str, Any], says: str) -> None:
    assert says in refused(CURL, **args)


def test_a_value_that_looks_like_an_option_stays_a_value() -> None:
    assert line(CURL, url="--config") == ["curl", "--", "--config"]
    assert line(CURL, url="-") == ["curl", "--", "-"]
    assert line(CURL, url="u", data="--x") == ["curl", "--data=--x", "u"]
    assert line(CURL, url="u", header=["-x"], max_time=-1) == ["curl", "-m-1", "-H-x", "u"]


def test_a_command_that_knows_no_end_of_options_gets_no_such_positional() -> None:
    echo = "name: echo\nend_of_options: false\nschema: {positional: [{name: words, type: array}]}"
    assert line(echo, words=["a", "b-"]) == ["echo", "a", "b-"]
    assert "words begins with -, which echo would take for an option" in refused(echo, words=["a", "-n"])


def test_a_long_flag_with_one_hyphen_takes_no_such_value() -> None:
    find = "name: find\nschema: {options: {name: {short: name}}}"
    assert line(find, name="*.py") == ["find", "-name", "*.py"]
    assert "cannot be told from an option behind -name" in refused(find, name="-delete")


def test_positionals_stay_in_their_places() -> None:
    copy = "name: cp\nschema: {positional: [{name: a}, {name: b, default: .}, {name: rest, type: array}]}"
    assert line(copy) == ["cp"]
    assert line(copy, a="x") == ["cp", "x"]
    assert line(copy, a="x", rest=["y", 1]) == ["cp", "x", ".", "y", "1"]
    assert "b is given, but not a" in refused(copy, b="x")


def test_a_recipe_called_as_the_tool_is_what_calling_the_tool_means() -> None:
    text = "name: t\nschema: {options: {a: {type: boolean}}}\nrecipes: {t: {preset: {a: true}}, u: {}}"
    assert line(text) == line(text, "t") == ["t", "--a"]
    assert line(text, "u") == ["t"]
    assert line("name: t", "t") == ["t"]


def test_from_outside_a_tool_is_its_recipes() -> None:
    data = outline(cli(CURL)).as_data()
    assert (data["name"], data["description"], data["tags"]) == ("curl", "HTTP", ["web"])
    assert [each["name"] for each in data["callables"]] == ["get", "post", "all"]
    assert data["callables"][0]["parameters"] == [
        {"name": "url", "type": "string", "required": True, "default": None, "description": "the address"},
        {"name": "max_time", "type": "integer", "required": False, "default": 30, "description": ""},
    ]
    assert [each["name"] for each in data["callables"][2]["parameters"]] == [
        "silent", "location", "max_time", "rate", "header", "data", "url",
    ]  # fmt: skip
    assert [each["name"] for each in outline(cli("name: t")).as_data()["callables"]] == ["t"]


ECHO = """
name: echo-arguments
command: echo
schema:
  options:
    flag: {type: boolean, short: f}
    text: {type: string}
    short: {type: string, short: s}
    number: {type: integer, short: n}
    items: {type: array}
    more: {type: array, short: m}
  positional:
    - {name: first, required: true}
    - {name: rest, type: array}
""".replace("echo-arguments", "echo_arguments")
_DEFINITION = cli(ECHO)

# Texts that are made to be taken for something else, and any others.
VALUES = st.one_of(
    st.sampled_from(
        ["", "-", "--", "---", "-f", "-x", "--flag", "--text=1", "-fs", "--more", "-m", "-1", "=", "-=", "--=", "-s-f"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.text("-=fsnmx1 ", max_size=6),
)
ARGUMENTS = st.fixed_dictionaries(
    {"first": VALUES},
    optional={
        "flag": st.booleans(),
        "text": VALUES,
        "short": VALUES,
        "number": st.integers(-(10**12), 10**12),
        "items": st.lists(VALUES, max_size=4),
        "more": st.lists(VALUES, max_size=4),
        "rest": st.lists(VALUES, max_size=4),
    },
)


def expected(args: dict[str, Any]) -> dict[str, Any]:
    return {
        "flag": args.get("flag", False),
        "text": args.get("text"),
        "short": args.get("short"),
        "number": args.get("number"),
        "items": args.get("items") or None,
        "more": args.get("more") or None,
        "first": args["first"],
        "rest": args.get("rest", []),
    }


@given(ARGUMENTS)
def test_what_getopt_reads_is_what_was_given(args: dict[str, Any]) -> None:
    """As most commands read their command lines: options anywhere before --."""
    options, positionals = getopt.gnu_getopt(command_line(_DEFINITION, None, args)[1:], "fs:n:m:", ["text=", "items="])
    found: dict[str, Any] = {"flag": False, "text": None, "short": None, "number": None, "items": None, "more": None}
    for name, value in options:
        match name:
            case "-f":
                found["flag"] = True
            case "--text":
                found["text"] = value
            case "-s":
                found["short"] = value
            case "-n":
                found["number"] = int(value)
            case "--items":
                found["items"] = [*(found["items"] or []), value]
            case _:
                found["more"] = [*(found["more"] or []), value]
    assert {**found, "first": positionals[0], "rest": positionals[1:]} == expected(args)


@given(ARGUMENTS)
def test_what_argparse_reads_is_what_was_given(args: dict[str, Any]) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-f", dest="flag", action="store_true")
    parser.add_argument("--text")
    parser.add_argument("-s", dest="short")
    parser.add_argument("-n", dest="number", type=int)
    parser.add_argument("--items", action="append")
    parser.add_argument("-m", dest="more", action="append")
    parser.add_argument("first")
    parser.add_argument("rest", nargs="*")
    texts = [args["first"], *(args.get(name, "") for name in ("text", "short"))]
    texts += [text for name in ("items", "more", "rest") for text in args.get(name, [])]
    # Before 3.13 it cuts -- out of whatever it is given, of values too; and it reads `-s=x` as it reads `-s x`.
    assume(not any(text == "--" or text.startswith("=") for text in texts))
    assert vars(parser.parse_args(command_line(_DEFINITION, None, args)[1:])) == expected(args)


@given(ARGUMENTS)
def test_no_value_makes_an_option(args: dict[str, Any]) -> None:
    """Whatever the values: what begins with - is a flag of the schema, alone or with its own value, or behind --."""
    argv = command_line(_DEFINITION, None, args)[1:]
    values = {"-f": 0, "--text": 1, "-s": 1, "-n": 1, "--items": 1, "-m": 1}
    options = argv[: argv.index("--") if "--" in argv else len(argv)]
    place = 0
    while place < len(options):
        flag = options[place]
        if flag in values:
            assert not any(each.startswith("-") for each in options[place + 1 :][: values[flag]])
            place += 1 + values[flag]
        else:
            assert not flag.startswith("-") or flag.startswith(("--text=-", "--items=-", "-s-", "-n-", "-m-"))
            place += 1
