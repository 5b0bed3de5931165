"""Frames of a Deno kernel's pipe: whole again however they are cut, and harmless whatever they are."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from cellyard_sandbox.deno_pipe import Frames


def frame(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + len(content).to_bytes(4, "big") + content


def fed(pieces: list[bytes]) -> list[tuple[str, object]]:
    taken: list[tuple[str, object]] = []
    frames = Frames(lambda kind, content: taken.append((kind, json.loads(content))))
    for piece in pieces:
        frames.feed(piece)
    return taken


@given(st.text(), st.text(), st.integers(1, 9))
def test_text_is_whole_again_however_it_is_cut(out: str, err: str, size: int) -> None:
    sent = [out.encode()[at : at + size] for at in range(0, len(out.encode()), size)]
    data = b"".join(frame(1, piece) for piece in sent) + frame(2, err.encode())
    taken = fed([data[at : at + size] for at in range(0, len(data), size)])
    texts = {"stdout": "", "stderr": ""}
    for kind, content in taken:
        assert kind == "stream"
        assert isinstance(content, dict)
        texts[content["name"]] += content["text"]
    assert texts == {"stdout": out, "stderr": err}


def test_messages_keep_their_place_between_texts() -> None:
    message = frame(3, b'{"kind":"display_data","content":{"data":{}}}')
    taken = fed([frame(1, b"a") + message + frame(1, b"b")])
    assert [kind for kind, _ in taken] == ["stream", "display_data", "stream"]


@given(st.lists(st.binary(max_size=200)))
def test_garbage_is_dropped(pieces: list[bytes]) -> None:
    fed(pieces)


def test_messages_that_are_none_are_dropped_and_what_follows_is_read() -> None:
    bad = [b"", b"[]", b"1", b'{"kind":"x"}', b'{"kind":1,"content":{}}', b"[" * 100_000, b"\xff"]
    taken = fed([frame(3, each) for each in bad] + [frame(1, b"a")])
    assert ("stream", {"name": "stdout", "text": "a"}) in taken
    assert all(isinstance(kind, str) for kind, _ in taken)
