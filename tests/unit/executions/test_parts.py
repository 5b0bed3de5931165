"""Large parts apart from outputs: what references look like, and that nothing that a kernel shows is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.notebook_files import JSON, TEXT

from cellyard_controller.executions import parts
from cellyard_controller.executions.model import Event
from cellyard_controller.executions.parts import LARGE, Parts, is_large, restored, stored
from cellyard_controller.sandboxes import link_messages
from cellyard_proto.outputs import BlobRef, OutputFold, from_nbformat, to_nbformat
from cellyard_proto.v1 import link_pb2, outputs_pb2

REF = BlobRef("sha256:" + "0" * 64, 70_000)
REFS = st.builds(BlobRef, st.just(REF.digest), st.integers(0, 10**9), st.booleans())
# What a kernel shows, with the words in it that references are made of.
TELLING = st.sampled_from(["blobs", "data", "text", "output_type", "text/html", "application/json"])
SHOWN = st.recursive(
    JSON | st.just([REF.digest, REF.size, False]),
    lambda inner: st.dictionaries(TELLING | TEXT, inner, max_size=4),
    max_leaves=8,
)
DISPLAY = st.fixed_dictionaries(
    {
        "output_type": st.sampled_from(["display_data", "execute_result"]),
        "data": st.dictionaries(TELLING | TEXT, SHOWN | REFS, max_size=4),
        "metadata": st.dictionaries(TELLING | TEXT, SHOWN, max_size=3),
    },
    optional={"transient": st.fixed_dictionaries({"display_id": TELLING})},
)
STREAM = st.fixed_dictionaries({"output_type": st.just("stream"), "name": TELLING, "text": TEXT | REFS})
UPDATE = st.fixed_dictionaries(
    {"display_id": TELLING, "data": st.dictionaries(TELLING, SHOWN | REFS, max_size=3), "metadata": st.just({})}
)
ERROR = st.fixed_dictionaries(
    {"output_type": st.just("error"), "ename": TELLING, "evalue": TEXT, "traceback": st.lists(TELLING)}
)


@given(DISPLAY | STREAM | UPDATE | ERROR)
def test_what_is_stored_comes_back_with_its_references_and_no_others(shown: dict[str, Any]) -> None:
    back = restored(json.loads(json.dumps(stored(shown))))
    assert back == shown
    assert list(back.get("data", ())) == list(shown.get("data", ()))
    assert parts.used([back]) == parts.used([shown])


@given(st.text(max_size=40), st.integers(LARGE // 5 - 5, LARGE // 5 + 5))
def test_large_is_what_has_that_many_bytes(text: str, times: int) -> None:
    whole = text.encode(errors="replace").decode() * times
    assert is_large(whole) == (len(whole.encode()) >= LARGE)


def event(body: dict[str, Any]) -> Event:
    return Event(1, "output", body)


def test_nothing_is_taken_out_of_small_events() -> None:
    shown = {"output_type": "display_data", "data": {"text/html": "x" * LARGE}, "metadata": {}}
    assert Parts([100]).of([event(shown)])[0].body is shown


def test_references_stand_in_memory_only_after_the_commit() -> None:
    data = {"text/html": "x" * LARGE, "application/json": {"a": "y" * LARGE}, "text/plain": "small"}
    shown = {"output_type": "display_data", "data": data, "metadata": {}}
    sizes = [3 * LARGE, 10]
    taken = Parts(sizes)
    lifted = taken.of([event(shown), event({"output_type": "stream", "name": "stdout", "text": "a"})])
    assert [type(value) for value in data.values()] == [str, dict, str]
    assert [type(value) for value in lifted[0].body["data"].values()] == [BlobRef, BlobRef, str]
    (output,) = taken.of_outputs([{**shown}])
    assert output["data"] == lifted[0].body["data"]
    taken.replace(sizes)
    assert data == lifted[0].body["data"]
    assert sizes[1] == 10
    assert sizes[0] < LARGE + 1000


def test_an_agent_cannot_send_a_reference() -> None:
    """Neither for a stream, nor for a value, nor in an update: the link is closed."""
    blob = outputs_pb2.Blob(digest=REF.digest, size=REF.size)
    data = {"text/html": outputs_pb2.MimeValue(blob=blob)}
    for output in (
        outputs_pb2.Output(stream=outputs_pb2.StreamOutput(name="stdout", blob=blob)),
        outputs_pb2.Output(display_data=outputs_pb2.DisplayData(data=data)),
        outputs_pb2.Output(execute_result=outputs_pb2.ExecuteResult(data=data)),
    ):
        frame = link_pb2.FromAgent(batch=link_pb2.Batch(events=[link_pb2.Event(number=1, output=output)]))
        with pytest.raises(ValueError, match="a blob stands where content is due"):
            link_messages.decode(frame)
    update = link_pb2.Event(number=1, display_updated=outputs_pb2.DisplayUpdated(display_id="d", data=data))
    with pytest.raises(ValueError, match="a blob stands where content is due"):
        link_messages.decode(link_pb2.FromAgent(batch=link_pb2.Batch(events=[update])))


@given(STREAM | DISPLAY)
def test_references_travel_as_blobs_and_content_as_before(shown: dict[str, Any]) -> None:
    message = from_nbformat(shown)
    if parts.used([shown]):
        with pytest.raises(ValueError, match="a blob"):
            to_nbformat(message)
    else:
        to_nbformat(message)


def test_nothing_is_joined_to_a_text_that_is_kept_elsewhere() -> None:
    fold = OutputFold([{"output_type": "stream", "name": "stdout", "text": "first\n"}])
    fold.keep_elsewhere({0: REF})
    late = {"output_type": "stream", "name": "stdout", "text": "late\r"}
    assert not fold.joins(late)
    fold.append(late)
    fold.append({**late, "text": "r"})
    assert [output["text"] for output in fold.outputs()] == [REF, "rate"]
