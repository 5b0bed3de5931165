"""What every Jupyter kernel is asked to do, case by case as jupyter-kernel-test asks it, of both hosts.

Two of its cases have no place here: `is_complete` belongs to consoles, and nobody asks it over the link; a pager is
something that a front end has, so what a cell pages is shown as one of its outputs.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.integration.agent.controller import Controller, Record
from tests.integration.agent.test_asking import complete, history, inspect


def shown(run: Record, kind: str) -> list[dict[str, Any]]:
    return [output["data"] for output in run.outputs if output["output_type"] == kind]


@pytest.mark.parametrize(
    ("stream", "source"),
    [("stdout", "print('hello, world')"), ("stderr", "import sys; print('hello, world', file=sys.stderr)")],
)
async def test_streams(kernel: Controller, stream: str, source: str) -> None:
    run = await kernel.run("a", source)
    assert run.outputs == [{"output_type": "stream", "name": stream, "text": "hello, world\n"}]
    assert run.outcome == "ok"


@pytest.mark.parametrize(
    ("text", "matches"), [("zi", ["zip"]), ("print.__na", ["print.__name__", "__name__", ".__name__"])]
)
async def test_completion(kernel: Controller, text: str, matches: list[str]) -> None:
    error, completed = await kernel.ask(**complete(text, len(text)))
    assert error == ""
    assert set(completed["matches"]) & set(matches)
    assert completed["status"] == "ok"


@pytest.mark.parametrize("source", ["zip?", "%pdoc zip", "zip??", "get_ipython().show_usage()", "%pinfo zip"])
async def test_what_is_paged_is_shown(kernel: Controller, source: str) -> None:
    run = await kernel.run("a", f"{source}\n")
    assert run.outcome == "ok", run.error
    (data,) = shown(run, "display_data")
    assert data["text/plain"]
    run = await kernel.run("b", "print('before')\nget_ipython().run_line_magic('pinfo', 'zip')\nprint('after')")
    assert [output["output_type"] for output in run.outputs] == ["stream", "display_data", "stream"]


async def test_an_error(kernel: Controller) -> None:
    run = await kernel.run("a", "raise ValueError('no')")
    assert run.outcome == "error"
    assert [output["output_type"] for output in run.outputs] == ["error"]


@pytest.mark.parametrize(
    ("source", "result"),
    [("1+2+3", "6"), ("[n*n for n in range(1, 4)]", "[1, 4, 9]"), ("'text'", "'text'"), ("None", None)],
)
async def test_results(kernel: Controller, source: str, result: str | None) -> None:
    run = await kernel.run("a", source)
    assert [data.get("text/plain") for data in shown(run, "execute_result")] == ([result] if result else [])


@pytest.mark.parametrize(
    ("source", "mime"),
    [
        ("from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "text/html"),
        ("from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "text/latex"),
        ("from IPython.display import JSON, display; display(JSON({'a': [1]}))", "application/json"),
        ("from IPython.display import SVG, display; display(SVG('<svg/>'))", "image/svg+xml"),
        ("from IPython.display import Markdown, display; display(Markdown('*a*'))", "text/markdown"),
    ],
)
async def test_displays(kernel: Controller, source: str, mime: str) -> None:
    (data,) = shown(await kernel.run("a", source), "display_data")
    assert data[mime]


async def test_the_history_has_its_tail(kernel: Controller) -> None:
    for number, source in enumerate(["1+2+3", "[n*n for n in range(1, 4)]"]):
        await kernel.run(f"e{number}", source)
    _, answered = await kernel.ask(**history(1))
    assert [entry[2] for entry in answered["history"]] == ["[n*n for n in range(1, 4)]"]


async def test_inspection(kernel: Controller) -> None:
    error, inspected = await kernel.ask(**inspect("zip", 3))
    assert (error, inspected["found"]) == ("", True)
    assert inspected["data"]["text/plain"]


async def test_outputs_are_cleared(kernel: Controller) -> None:
    run = await kernel.run("a", "from IPython.display import clear_output; print('a'); clear_output()")
    assert "clear_output" in run.kinds
    assert run.outputs == []


async def test_what_a_magic_proposes_as_the_next_cell_is_no_output(kernel: Controller) -> None:
    run = await kernel.run("a", "%recall\nget_ipython().set_next_input('x = 1')")
    assert run.outputs == []
    assert json.loads((await kernel.run("b", "1 + 1")).end.value.json) == 2
