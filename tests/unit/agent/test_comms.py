"""Comm messages between Jupyter's form and the link's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto.v1 import outputs_pb2
from cellyard_sandbox import comms, wire

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DATA = st.dictionaries(TEXT, st.one_of(st.none(), st.integers(-100, 100), TEXT, st.lists(TEXT)), max_size=3)


def from_frames(frames: list[bytes]) -> tuple[wire.Message, dict[str, Any]]:
    message = wire.parse(frames)
    return message, message.content()


@given(st.sampled_from(["open", "message", "close"]), TEXT.filter(bool), DATA, DATA, st.lists(st.binary()))
def test_a_message_is_the_same_after_the_way_to_the_kernel_and_back(
    what: str, comm_id: str, data: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes]
) -> None:
    comm = outputs_pb2.Comm(comm_id=comm_id, buffers=buffers)
    getattr(comm, what).data_json = json.dumps(data, separators=(",", ":"))
    if what == "open":
        comm.open.target_name = "jupyter.widget"
        comm.open.metadata_json = json.dumps(metadata, separators=(",", ":"))
    message, content = from_frames(wire.frames(comms.to_kernel(comm, "run")))
    assert comms.from_kernel(message, content) == comm


@pytest.mark.parametrize("text", ["[]", "1", "{", "[" * 9999, "nope"])
def test_data_that_is_no_object_is_refused(text: str) -> None:
    for bad in (
        outputs_pb2.Comm(comm_id="c", message={"data_json": text}),
        outputs_pb2.Comm(comm_id="c", open={"data_json": "{}", "metadata_json": text}),
        outputs_pb2.Comm(comm_id="c"),
    ):
        with pytest.raises(ValueError, match=r"."):
            comms.to_kernel(bad, "run")


@pytest.mark.parametrize("content", [{}, {"comm_id": 7}, {"comm_id": ""}])
def test_what_names_no_comm_is_dropped(content: dict[str, Any]) -> None:
    assert comms.from_kernel(wire.Message("comm_msg", "", b""), content) is None


def test_what_a_front_end_does_belongs_to_the_run_that_opened_the_comm() -> None:
    opened = outputs_pb2.Comm(comm_id="c", open={"target_name": "t"})
    openers = comms.Openers()
    openers.note("a", opened)
    openers.note("b", outputs_pb2.Comm(comm_id="c", message={}))
    assert openers.run_of("c") == "a"
    openers.note("b", outputs_pb2.Comm(comm_id="c", close={}))
    assert openers.run_of("c") is None
    msg_id = comms.to_kernel(opened, "a").msg_id
    assert comms.run_of(msg_id) == ("a", True)
    assert comms.run_of("a") == ("a", False)
