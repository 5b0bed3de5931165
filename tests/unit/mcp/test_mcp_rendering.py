"""Outputs as a model reads them."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import types

from cellyard.errors import InvalidRequest
from cellyard.mcp import rendering, results
from cellyard.results import End, ExecutionResult, Output


def _result(*outputs: Output, **fields: Any) -> ExecutionResult:
    return ExecutionResult("cell-1", "exec-1", list(outputs), **{"end": End.SUCCEEDED, **fields})


def _display(**data: Any) -> Output:
    return Output("display_data", data={mime.replace("_", "/"): value for mime, value in data.items()}, metadata={})


def test_outputs_stand_in_their_order_and_displays_on_lines_of_their_own() -> None:
    shown = rendering.rendered(
        _result(
            Output("stream", name="stdout", text="no line end"),
            _display(text_plain="42"),
            _display(image_png=b"png", text_plain="<Figure size 1x1 with 1 Axes>"),
            Output("stream", name="stderr", text="\x1b[31mred\x1b[0m\n"),
            Output("error", ename="E", evalue="v", traceback=["\x1b[1mE\x1b[0m: v"]),
        )
    )
    assert shown.text == "no line end\n42\n[image 1: image/png, 3 bytes]\nred\nE: v\n"
    (image,) = shown.images
    assert shown.text[image.at :].startswith("\n[image 1") or shown.text[image.at :].startswith("[image 1")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"text/plain": "plain", "text/html": "<b>"}, "plain\n"),
        ({"text/plain": "<IPython.core.display.HTML object>", "text/html": "<b>"}, "<b>\n"),
        ({"text/plain": "<IPython.core.display.Markdown object>", "text/markdown": "# m"}, "# m\n"),
        ({"text/plain": "<mine.Thing at 0x7f00>"}, "<mine.Thing at 0x7f00>\n"),
        ({"application/json": {"a": 1}}, '{"a": 1}\n'),
        ({"image/svg+xml": "<svg/>"}, "<svg/>\n"),
        ({"application/x-unknown": "?"}, "<application/x-unknown>\n"),
        ({}, ""),
    ],
)
def test_plain_text_is_taken_where_it_says_something(data: dict[str, Any], expected: str) -> None:
    assert rendering.rendered(_result(Output("display_data", data=data))).text == expected


def test_too_many_and_too_large_images_are_left_out_and_named() -> None:
    small = [_display(image_png=b"p") for _ in range(rendering.MAX_IMAGES + 1)]
    large = _display(image_jpeg=b"j" * (rendering.MAX_IMAGE_BYTES + 1))
    result = _result(large, *small)
    made = results.execution(result, "n", 20_000)
    images = [block for block in made.content if isinstance(block, types.ImageContent)]
    assert len(images) == rendering.MAX_IMAGES
    assert f"not shown here: image 1, {rendering.MAX_IMAGES + 2};" in str(made.content[-1])
    last = results.one_image(result, rendering.MAX_IMAGES + 2)
    assert isinstance(last.content[0], types.ImageContent)
    with pytest.raises(InvalidRequest, match="can be shown"):
        results.one_image(result, 1)


def test_an_image_comes_with_the_page_that_its_line_is_on() -> None:
    result = _result(Output("stream", name="stdout", text="x" * 100), _display(image_png=b"p"))
    assert len(results.output_page(result, "n", 0, 50).content) == 2
    assert len(results.output_page(result, "n", 100, 50).content) == 3


@pytest.mark.parametrize(
    ("end", "failed"),
    [(End.SUCCEEDED, False), (End.FAILED, False), (None, False), (End.TIMED_OUT, True), (End.LOST, True)],
)
def test_what_the_code_raised_is_a_result_and_what_cut_it_short_a_failure(end: End | None, failed: bool) -> None:
    assert results.execution(_result(end=end), "n", 20_000).isError is failed


def test_a_lone_surrogate_can_be_sent() -> None:
    made = results.execution(_result(Output("stream", name="stdout", text="a\ud800b")), "n", 20_000)
    assert made.model_dump_json()
