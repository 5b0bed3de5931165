"""What of outputs reaches a browser, and how."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from io import BytesIO, FileIO
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.web.console import contents

AHEAD = ["link", "iframe", "frame", "frameset", "object", "embed", "meta", "base"]
_names = st.sampled_from([*AHEAD, *map(str.upper, AHEAD), "lInK", "table", "linkx", "x-"])
_pieces = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(["<", "</", "<!--", "\0", "\n", ">"]), _names))


@given(_pieces.map("".join))
def test_a_frame_has_nothing_that_opens_connections_ahead(html: str) -> None:
    shown: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: shown.append(tag)  # type: ignore[method-assign]
    parser.feed(contents.frame(html))
    assert shown[:3] == ["meta", "meta", "base"], "those are the console's"
    assert set(shown[3:]).isdisjoint(AHEAD)


@given(st.text())
def test_html_is_told_as_its_hash_and_found_by_it(html: str) -> None:
    event = {"execution_changed": {"event": {"output": {"display_data": {"data": {"text/html": {"text": html}}}}}}}
    told = contents.without_html(event)
    value = told["execution_changed"]["event"]["output"]["display_data"]["data"]["text/html"]
    assert set(value) == {"frame", "lines"}
    outputs = [{"output_type": "stream", "text": "x"}, {"data": {"text/plain": html}}, {"data": {"text/html": html}}]
    assert contents.find_html(outputs, value["frame"]) == html
    assert contents.find_html(outputs[:2], value["frame"]) is None


def test_what_is_no_html_is_told_as_it_is() -> None:
    event = {"cell_changed": {"cell": {"source": "text/html", "outputs": [{"stream": {"text": "<b>"}}], "n": 1.5}}}
    assert contents.without_html(event) == event
    assert json.dumps(contents.without_html([event])) == json.dumps([event])


@given(st.binary(max_size=2000), st.integers(1, 100))
def test_a_picture_is_decoded_piece_by_piece(picture: bytes, width: int) -> None:
    text = base64.b64encode(picture)
    lines = b"\n".join(text[start : start + width] for start in range(0, len(text), width))
    assert b"".join(contents.decoded(cast(FileIO, BytesIO(lines)))) == picture


@pytest.mark.parametrize("text", [b"abc", b"a", b"====", b"ab=c", b"<svg", b"abc\0"])
def test_what_is_no_picture_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"padding|base64|group|data"):
        list(contents.decoded(cast(FileIO, BytesIO(text))))
