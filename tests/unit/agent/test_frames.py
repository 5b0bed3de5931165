"""Frames between the agent and the Python kernel, and the kernel's end of the socket."""

from __future__ import annotations

import signal
import socket
import threading
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_sandbox import frames
from cellyard_sandbox.python_kernel.connection import Closed, Connection, frame

PARTS = st.lists(st.binary(max_size=40), min_size=4, max_size=8)


@given(st.lists(PARTS, max_size=5), st.integers(1, 50))
def test_messages_are_the_same_however_they_are_cut_on_the_way(messages: list[list[bytes]], step: int) -> None:
    data = b"".join(map(frames.encode, messages))
    reader = frames.Reader()
    read = [parts for start in range(0, len(data), step) for parts in reader.feed(data[start : start + step])]
    assert read == messages


@given(st.binary(max_size=200))
def test_nonsense_is_refused_or_waited_for_and_never_anything_else(data: bytes) -> None:
    try:
        for parts in frames.Reader().feed(data):
            assert len(parts) >= 4
            assert sum(map(len, parts)) <= len(data)
    except frames.NotAFrame:
        pass


def test_a_message_that_is_too_long_is_refused_at_both_ends() -> None:
    with pytest.raises(ValueError, match="longer"):
        frames.encode([b"", b"", b"", bytes(frames.MAX_FRAME)])
    with pytest.raises(frames.NotAFrame):
        list(frames.Reader().feed((frames.MAX_FRAME + 1).to_bytes(4)))


@pytest.fixture
def ends() -> tuple[Connection, socket.socket]:
    """The kernel's end, and the agent's."""
    theirs, ours = socket.socketpair()
    return Connection(theirs.detach()), ours


def test_what_a_signals_handler_breaks_off_goes_out_whole_with_the_next_message(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, agent = ends
    large = frame("stream", "a", {"text": "x" * 5_000_000})

    class Rang(Exception):
        pass

    def ring(number: int, at: FrameType | None) -> None:
        connection.send(frame("stream", "of the handler", {}))  # in the midst of the other one
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Rang):
            connection.send(large)  # nobody reads
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    next_one = threading.Thread(target=connection.send, args=(frame("stream", "b", {}),))
    next_one.start()
    reader = frames.Reader()
    read: list[list[bytes]] = []
    while len(read) < 3:
        read.extend(reader.feed(agent.recv(1_000_000)))
    next_one.join()
    assert [parts[1] for parts in read] == [b"a", b"of the handler", b"b"]
    assert len(read[0][2]) > 5_000_000
    agent.close()


def test_an_agent_that_is_gone_makes_sending_no_error_and_ends_receiving(
    ends: tuple[Connection, socket.socket],
) -> None:
    connection, agent = ends
    assert connection.receive() == []
    agent.close()
    for _ in range(3):
        connection.send(frame("stream", "a", {}))
    assert not connection.open
    with pytest.raises(Closed):
        connection.receive()


@pytest.mark.parametrize("buffers", [[], [b"", b"\x00\xff"]])
def test_a_request_comes_as_it_was_sent(ends: tuple[Connection, socket.socket], buffers: list[bytes]) -> None:
    connection, agent = ends
    agent.sendall(frames.encode([b"comm_msg", b"id", b'{"x":1}', b"{}", *buffers]))
    (request,) = connection.receive()
    assert (request.kind, request.msg_id, request.content, request.metadata) == ("comm_msg", "id", {"x": 1}, {})
    assert [bytes(buffer) for buffer in request.buffers] == buffers
    agent.close()
