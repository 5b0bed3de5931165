"""The outputs of an execution, folded from its events as JupyterLab shows them."""

from __future__ import annotations

from typing import Any

import pytest

from cellyard_proto.outputs import OutputFold


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def display(text: str, display_id: str = "") -> dict[str, Any]:
    shown = {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}
    return {**shown, "transient": {"display_id": display_id}} if display_id else shown


def test_neighbouring_chunks_of_one_stream_are_one_output() -> None:
    fold = OutputFold()
    for output in (stream("a"), stream("b"), stream("c", "stderr"), stream("d")):
        fold.append(output)
    assert fold.outputs() == [stream("ab"), stream("c", "stderr"), stream("d")]
    fold.append(stream("e"))
    assert fold.outputs()[-1] == stream("de")


def test_what_follows_a_stream_has_nothing_of_its_text() -> None:
    fold = OutputFold()
    for output in (stream("a"), display("1"), display("2")):
        fold.append(output)
        assert "text" not in fold.outputs()[-1] or output["output_type"] == "stream"
    assert fold.outputs() == [stream("a"), display("1"), display("2")]
    assert [set(output) for output in fold.outputs()[1:]] == [{"output_type", "data", "metadata"}] * 2


@pytest.mark.parametrize("wait", [False, True])
def test_cleared_outputs_are_gone_at_once_or_when_the_next_one_comes(wait: bool) -> None:
    fold = OutputFold([stream("a")])
    fold.clear(wait=wait)
    assert fold.outputs() == ([stream("a")] if wait else [])
    fold.append(stream("b"))
    assert fold.outputs() == [stream("b")]


def test_an_updated_display_changes_where_it_stands() -> None:
    fold = OutputFold([display("old", "d"), stream("a"), display("old", "d")])
    assert fold.update_display("d", {"text/plain": "new"}, {})
    assert fold.outputs() == [display("new", "d"), stream("a"), display("new", "d")]
    assert not fold.update_display("other", {}, {})


@pytest.mark.parametrize(
    ("printed", "shown"),
    [("10%\r20%", "20%"), ("long\rab", "abng"), ("a\r\nb", "a\nb"), ("ab\b\bc", "c"), ("a\n\bb", "a\nb")],
)
def test_control_characters_are_applied_across_chunks(printed: str, shown: str) -> None:
    fold = OutputFold(stream(character) for character in printed)
    assert fold.outputs() == [stream(shown)]
