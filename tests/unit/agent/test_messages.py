"""From a kernel's messages to events; the kernel may send anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto.outputs import to_nbformat
from cellyard_sandbox import messages, values, wire
from cellyard_sandbox.messages import Chunk

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4),
    max_leaves=10,
)


def frames(kind: Any, content: Any, parent: Any = "p") -> list[bytes]:
    def pack(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")

    return [b"topic", b"<IDS|MSG>", b"", pack({"msg_type": kind}), pack({"msg_id": parent}), b"{}", pack(content)]


def display(kind: str, content: dict[str, Any]) -> dict[str, Any]:
    item = messages.display(kind, content)
    assert item is not None
    assert item.size == item.event.ByteSize()
    return to_nbformat(item.event.output)


def test_a_message_is_read_from_its_frames() -> None:
    message = wire.parse(frames("stream", {"name": "stdout", "text": "é"}, "request"))
    assert (message.kind, message.parent) == ("stream", "request")
    assert messages.stream(message.content()) == Chunk("stdout", "é")


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [b"<IDS|MSG>"],
        [b"x"] * 7,
        frames(1, {}),
        frames("stream", {}, 7),
        [b"<IDS|MSG>", b"", b"{", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b"[]", b"{}", b"{}", b"{}"],
        [b"<IDS|MSG>", b"", b"[" * 100_000, b"{}", b"{}", b"{}"],
    ],
)
def test_what_is_no_message_is_refused(bad: list[bytes]) -> None:
    with pytest.raises(wire.NotAMessage):
        wire.parse(bad)


def test_text_is_made_fit_for_utf8() -> None:
    raw = wire.Message("stream", "", b'{"text": "a\\ud800b", "pair": "\\ud83d\\ude00", "\\udfff": [NaN]}')
    assert raw.content() == {"text": "a\ufffdb", "pair": "😀", "\ufffd": [None]}
    passed = wire.parse(frames("stream", {"text": "a\ud800b😀"}))
    assert passed.content() == {"text": "a\ufffdb😀"}
    assert wire.Message("stream", "", b'{"text": "\xff\xfe"}').content() == {"text": "\ufffd\ufffd"}


@given(st.sampled_from(sorted(messages.DISPLAYS)), st.dictionaries(st.text(st.characters()), JSON))
def test_no_content_breaks_the_translation(kind: str, content: dict[str, Any]) -> None:
    clean = wire.parse(frames(kind, content)).content()
    messages.stream(clean)
    messages.take_value(clean)
    item = messages.display(kind, clean)
    assert item is None or item.event.SerializeToString() is not None


@given(st.sampled_from(sorted(messages.DISPLAYS)), JSON, JSON, JSON)
def test_no_field_breaks_the_translation(kind: str, data: Any, metadata: Any, transient: Any) -> None:
    content = {"data": data, "metadata": metadata, "transient": transient, "traceback": data, "execution_count": data}
    messages.display(kind, wire.parse(frames(kind, content)).content())


def test_representations_keep_their_kinds() -> None:
    shown = display(
        "display_data",
        {
            "data": {"text/html": ["<b>", "</b>"], "application/json": {"a": [1]}, "application/geo+json": "text"},
            "metadata": {"text/html": {"isolated": True}},
            "transient": {"display_id": "d"},
        },
    )
    assert shown["data"] == {
        "text/html": "<b></b>",
        "application/json": {"a": [1]},
        "application/geo+json": "text",
    }
    assert shown["metadata"] == {"text/html": {"isolated": True}}
    assert shown["transient"] == {"display_id": "d"}


def test_the_value_is_taken_out_of_the_result() -> None:
    content = {
        "data": {"text/plain": "2", values.MIME: {"json": "2", "is_repr": False}},
        "metadata": {},
        "execution_count": 4,
    }
    value = messages.take_value(content)
    assert value is not None
    assert (value.json, value.is_repr) == ("2", False)
    assert display("execute_result", content)["data"] == {"text/plain": "2"}


@pytest.mark.parametrize("value", [None, "2", {}, {"json": 2}, {"json": "x" * (4 * 1024 * 1024)}])
def test_a_value_of_the_wrong_shape_is_none(value: Any) -> None:
    assert messages.take_value({"data": {values.MIME: value}}) is None


def test_an_update_without_an_id_is_dropped() -> None:
    assert messages.display("update_display_data", {"data": {"text/plain": "x"}}) is None


@pytest.mark.parametrize("content", [{"name": "stdin", "text": "x"}, {"name": "stdout", "text": 1}, {"name": "stdout"}])
def test_text_of_no_stream_is_dropped(content: dict[str, Any]) -> None:
    assert messages.stream(content) is None


@pytest.mark.parametrize(("value", "count"), [(3, 3), (-1, 0), (2**31, 0), (True, 0), ("3", 0), (None, 0)])
def test_an_execution_count_is_a_count(value: Any, count: int) -> None:
    assert messages.count(value) == count
