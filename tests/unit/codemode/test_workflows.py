"""What a workflow's source says of it, read by parsing alone, whatever somebody hands in."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.errors import WorkflowValidationError
from cellyard_proto.codemode.workflows import Parameter, check_name, parse

RUN = "def run(): pass\n"


def parameters(signature: str) -> list[tuple[str, str, bool, Any]]:
    found = parse("w", f"def run({signature}): pass").parameters
    return [(each.name, each.type, each.required, each.default) for each in found]


# Names


@pytest.mark.parametrize("name", ["a", "A1_", "_a", "fetch_json", "a" * 64, "match", "run", "tools", "name"])
def test_identifiers_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "identifier"),
        ("1a", "identifier"),
        ("a-b", "identifier"),
        ("a\n", "identifier"),
        ("é", "identifier"),
        ("\N{FULLWIDTH LATIN SMALL LETTER A}", "identifier"),  # which Python itself reads as a
        ("a\x00", "identifier"),
        ("../a", "identifier"),
        ("class", "keyword"),
        ("None", "keyword"),
        ("async", "keyword"),
        ("list", "Reserved"),
        ("search", "Reserved"),
        ("get", "Reserved"),
        ("create", "Reserved"),
        ("delete", "Reserved"),
        ("invoke", "Reserved"),
        ("__init__", "Reserved"),
        ("a" * 65, "at most 64 characters, not 65"),
        ("a" * 10_000_000, "at most 64"),
        (None, "not NoneType"),
        (b"a", "not bytes"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_other_names_are_refused_with_the_reason(name: object, says: str) -> None:
    with pytest.raises(WorkflowValidationError, match=says) as refused:
        parse(name, RUN)
    assert len(str(refused.value)) < 300
    assert isinstance(refused.value, ValueError)


# Sources


@pytest.mark.parametrize(
    "source",
    [
        RUN,
        "async def run(): pass",
        "import nothing_of_this_name\n" + RUN,
        "run = 5\ndef run(): pass\nrun = 6",
        "@decorator\n@other(1)\ndef run(): yield 1",
        "from tools import *\nasync def run():\n    await x\n",
        "\ufeffdef run(): pass"[1:],
        "# -*- coding: no-such-coding -*-\n" + RUN,
        "\x0cdef run(): pass",
        "def run():\r\n    pass\r\n",
        "def run(): return 'ü\U0001f600'",
    ],
    ids=range(11),
)
def test_a_run_at_the_top_level_makes_a_workflow(source: str) -> None:
    assert parse("w", source).source == source


@pytest.mark.parametrize(
    "source",
    [
        "",
        "pass",
        "def other(): pass",
        "run = lambda: 1",
        "if True:\n    def run(): pass",
        "class A:\n    def run(self): pass",
        "def outer():\n    def run(): pass",
        "try:\n    async def run(): pass\nfinally:\n    pass",
        "class run: pass",
        "from elsewhere import run",
    ],
)
def test_no_other_run_counts(source: str) -> None:
    with pytest.raises(WorkflowValidationError, match="must define 'def run"):
        parse("w", source)


def test_the_last_run_counts() -> None:
    assert [each.name for each in parse("w", "def run(a): pass\nasync def run(b): pass").parameters] == ["b"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def run(:", "line 1"),
        ("\n\nx = (", "line 3"),
        ("def run(): pass\x00", "null byte|NUL"),
        ("def run(): return '\ud800'", "surrogates not allowed"),
        ("def run(): pass\n  x", "indent"),
        ("print 'x'", "line 1"),
        ("\ufeffdef run(): pass", "U\\+FEFF"),
        ("def run(a, /): pass", "positional-only"),
        ("x" * (workflows.MAX_SOURCE + 1), "at most 262144 characters"),
        ("#" * 10_000_000, "not 10000000"),
        (b"def run(): pass", "not bytes"),
        (None, "not NoneType"),
    ],
    ids=range(12),
)
def test_what_is_no_source_is_refused_with_the_reason(source: object, says: str) -> None:
    with pytest.raises(WorkflowValidationError, match=says) as refused:
        parse("w", source)
    assert len(str(refused.value)) < 300
    assert "None" not in str(refused.value).replace("NoneType", "")


def test_nothing_of_a_source_is_executed(tmp_path: Path) -> None:
    effect = f"open({str(tmp_path / 'made')!r}, 'w')"
    source = f"""
import sys
sys.modules["made_by_a_workflow"] = sys
{effect}
raise SystemExit(3)
@({effect})
def run(a: ({effect}) = {effect}, *, b=[__import__("os").environ.update(MADE="1")]) -> ({effect}):
    {effect}
class A(metaclass={effect}):
    {effect}
"""
    found = parse("w", source)
    assert [each.name for each in found.parameters] == ["a", "b"]
    assert found.parameters[0].default == effect
    assert not (tmp_path / "made").exists()
    assert "MADE" not in os.environ
    assert "made_by_a_workflow" not in sys.modules


DEEP = {
    "parentheses": lambda n: "x = " + "(" * n + ")" * n + "\n" + RUN,
    "lists": lambda n: "def run(a=" + "[" * n + "]" * n + "): pass",
    "minus": lambda n: "def run(a=" + "-" * n + "1): pass",
    "attributes": lambda n: "def run(a=x" + ".a" * n + "): pass",
    "calls": lambda n: "def run(a=x" + "()" * n + "): pass",
    "sums": lambda n: "def run(a=1" + "+1" * n + "): pass",
    "unions": lambda n: "def run(a: int" + " | None" * n + "): pass",
    "optionals": lambda n: "def run(a: " + "Optional[" * n + "int" + "]" * n + "): pass",
    "blocks": lambda n: RUN + "".join(" " * depth + "if x:\n" for depth in range(n)) + " " * n + "pass",
    "lambdas": lambda n: "def run(a=" + "lambda: " * n + "1): pass",
    "conditions": lambda n: "def run(a=" + "1 if x else " * n + "1): pass",
    "not": lambda n: "x = " + "not " * n + "1\n" + RUN,
    "power": lambda n: "x = 1" + "**1" * n + "\n" + RUN,
}


@pytest.mark.parametrize("shape", DEEP)
@pytest.mark.parametrize("depth", [10, 90, 500, 990, 1500, 2900, 6000, 30_000])
def test_deep_nesting_is_read_or_refused(shape: str, depth: int) -> None:
    source = DEEP[shape](min(depth, 400) if shape == "blocks" else depth)
    try:
        found = parse("w", source)
    except WorkflowValidationError as error:
        refused = error
    else:
        json.dumps(found.as_data())
        return
    assert depth > 10
    assert len(str(refused)) < 300


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(source=st.text(), name=st.just("w") | st.text(max_size=5), description=st.text(max_size=5))
@example("def run(a='\\ud800'): '\\ud800'", "w", "")
@example("def run(a=0x" + "f" * 10_000 + "): pass", "w", "")
@example("def run(a=" + "9" * 5000 + "): pass", "w", "")
@example(RUN, "w", "\ud800")
def test_any_text_is_a_workflow_or_refused(source: str, name: str, description: str) -> None:
    try:
        found = parse(name, source, description)
    except WorkflowValidationError:
        return
    json.dumps(found.as_data(), ensure_ascii=False).encode()


signatures = st.lists(
    st.sampled_from(
        [
            "a",
            "b: int",
            "c=1",
            "*",
            "*args",
            "**kw",
            "d: 'list[int]' = None",
            "/",
            "e=x.y",
            "tools",
            "f: A | B = {1}",
            ",",
        ]
    ),
    max_size=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=signatures, begin=st.sampled_from(["def", "async def", "class", "@x\ndef"]), rest=st.text(max_size=10))
def test_any_signature_is_a_workflow_or_refused(pieces: list[str], begin: str, rest: str) -> None:
    try:
        found = parse("w", f"{begin} run({', '.join(pieces)}): pass\n{rest}")
    except WorkflowValidationError:
        return
    assert {each.name for each in found.parameters} <= {"a", "b", "c", "d", "e", "f"}
    assert json.loads(json.dumps(found.as_data())) == found.as_data()


# Parameters


@pytest.mark.parametrize(
    ("annotation", "type_"),
    [
        ("str", "string"),
        ("int", "integer"),
        ("float", "number"),
        ("bool", "boolean"),
        ("list", "array"),
        ("list[str]", "array"),
        ("tuple[int, ...]", "array"),
        ("set[int]", "array"),
        ("dict[str, int]", "object"),
        ("'dict[str, int]'", "object"),
        ("'int'", "integer"),
        ("Optional[int]", "integer"),
        ("int | None", "integer"),
        ("None | list[int]", "array"),
        ("int | str", "string"),
        ("Any", "string"),
        ("typing.Any", "string"),
        ("None", "string"),
        ("5", "string"),
        ("(lambda: 1)", "string"),
    ],
)
def test_annotations_are_types_of_json_schema(annotation: str, type_: str) -> None:
    assert parameters(f"a: {annotation}") == [("a", type_, True, None)]


@pytest.mark.parametrize(
    ("default", "value"),
    [
        ("None", None),
        ("True", True),
        ("5", 5),
        ("-5", -5),
        ("1.5e3", 1500.0),
        ("'text'", "text"),
        ("[1, 'a', None]", [1, "a", None]),
        ("(1, 2)", [1, 2]),
        ("{'a': [1]}", {"a": [1]}),
        ("b'x'", "b'x'"),
        ("{1, 2}", "{1, 2}"),
        ("...", "..."),
        ("1e999", "1e309"),
        ("1 + 2j", "1 + 2j"),
        ("'\\ud800'", "'\\ud800'"),
        ("x.y", "x.y"),
        ("os.environ['A']", "os.environ['A']"),
        ("lambda a: a", "lambda a: a"),
        ("f'{x}'", "f'{x}'"),
        ("[x for x in y]", "[x for x in y]"),
    ],
)
def test_defaults_are_data_or_source(default: str, value: Any) -> None:
    ((_, _, required, found),) = parameters(f"a={default}")
    assert not required
    assert (found, type(found)) == (value, type(value))
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


def test_all_that_is_given_by_name_is_a_parameter() -> None:
    assert parameters("a, b=1, *rest, c, d: int = 2, tools, artifacts=None, **more") == [
        ("a", "string", True, None),
        ("b", "string", False, 1),
        ("c", "string", True, None),
        ("d", "integer", False, 2),
    ]


def test_as_data_has_all_and_a_summary_all_but_the_source() -> None:
    found = parse("w", "def run(a: int): pass", "says")
    assert found.parameters == (Parameter("a", "integer", True),)
    shown = {"name": "a", "type": "integer", "description": "", "required": True, "default": None}
    assert found.summary() == {"name": "w", "description": "says", "parameters": [shown]}
    assert found.as_data() == found.summary() | {"source": "def run(a: int): pass"}


# Descriptions


@pytest.mark.parametrize(
    ("source", "given", "description"),
    [
        (RUN, "", ""),
        (RUN, "said", "said"),
        ('"""Module."""\ndef run():\n    """Run."""', "", "Module."),
        ('def run():\n    """\n    Run.\n\n    More.\n    """', "", "Run."),
        ('"""Module."""\n' + RUN, "said\nat length", "said\nat length"),
        ('"""' + "x" * 10_000 + '"""\n' + RUN, "", "x" * 4096),
        ('"""\\ud800 half"""\n' + RUN, "", "? half"),
        ("b'bytes'\n" + RUN, "", ""),
        ("f'{x}'\n" + RUN, "", ""),
    ],
    ids=range(9),
)
def test_a_description_is_what_was_given_or_the_first_line_of_a_docstring(
    source: str, given: str, description: str
) -> None:
    assert parse("w", source, given).description == description


@pytest.mark.parametrize("description", ["x" * 4097, "\ud800", None, 5, b"x"], ids=lambda value: ascii(value)[:10])
def test_other_descriptions_are_refused(description: object) -> None:
    with pytest.raises(WorkflowValidationError, match="description"):
        parse("w", RUN, description)
