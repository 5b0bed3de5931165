"""Text, the kernel's life, facts and frames."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto import framing
from cellyard_proto.v1 import link_pb2
from cellyard_sandbox import facts, text
from cellyard_sandbox.kernel_life import HostState, IllegalStep, KernelLife


@given(st.text(st.characters()))
def test_clean_text_fits_into_utf8_and_good_text_stays(dirty: str) -> None:
    cleaned = text.clean(dirty)
    assert text.size_of(cleaned) == len(cleaned.encode())
    if not any("\ud800" <= char <= "\udfff" for char in dirty):
        assert cleaned == dirty


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(0, 40))
def test_a_cut_takes_as_much_as_fits(whole: str, size: int) -> None:
    start = text.cut(whole, size)
    assert whole.startswith(start)
    assert len(start.encode()) <= size
    assert start == whole or len(start.encode()) > size - 4


def test_each_start_of_a_kernel_is_a_generation() -> None:
    life = KernelLife()
    life.go(HostState.STARTING)
    assert life.go(HostState.READY).generation == 1
    assert life.go(HostState.DEAD, "oom").reason == "oom"
    assert life.go(HostState.STARTING).reason == ""
    assert life.status().generation == 2
    assert life.status().state == link_pb2.HOST_STATE_STARTING


def test_steps_that_do_not_exist_are_refused() -> None:
    life = KernelLife()
    for state in (HostState.NONE, HostState.READY, HostState.DEAD):
        with pytest.raises(IllegalStep):
            life.go(state)


def test_facts_are_those_of_this_process() -> None:
    import os

    told = facts.gather()
    assert told.uid == os.getuid()
    assert len(told.cap_eff) == 16
    assert told.seccomp in (0, 1, 2)
    assert told.no_new_privs in (0, 1)
    assert "lo" in told.interfaces


@given(st.lists(st.integers(0, 2**40)), st.data())
def test_frames_come_out_of_bytes_cut_anywhere(numbers: list[int], data: st.DataObject) -> None:
    decoder = framing.Decoder(link_pb2.ToAgent)
    rest = b"".join(framing.encode(link_pb2.ToAgent(ping=link_pb2.Ping(id=number))) for number in numbers)
    found: list[int] = []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found.extend(message.ping.id for message in decoder.feed(rest[:size]))
        rest = rest[size:]
    assert found == numbers


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x02\xff\xff"])
def test_bytes_that_are_no_frame_are_refused(bad: bytes) -> None:
    with pytest.raises(framing.FrameError):
        framing.Decoder(link_pb2.ToAgent).feed(bad)
