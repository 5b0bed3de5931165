"""What is no message, or should not have come: dropped, and the kernel goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jupyter_client.session import DELIM, Session

from tests.controller_process import Process
from tests.e2e.jupyter.front_end import WAIT_S, FrontEnd

pytestmark = pytest.mark.docker

CHANNELS = ("shell", "control", "stdin")


@pytest.fixture(scope="module")
def kernel(service: Process) -> Iterator[FrontEnd]:
    front_end = FrontEnd("cellyard-python")
    yield front_end
    front_end.close()


class Raw:
    """Sockets of our own, on which anything can be sent."""

    def __init__(self, kernel: FrontEnd) -> None:
        manager = kernel.manager
        self.key: bytes = manager.session.key
        self._context = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for name in CHANNELS:
            socket = self.sockets[name] = self._context.socket(zmq.DEALER)
            socket.linger, socket.rcvtimeo = 0, int(WAIT_S * 1000)
            socket.connect(f"tcp://127.0.0.1:{getattr(manager, f'{name}_port')}")

    def close(self) -> None:
        for socket in self.sockets.values():
            socket.close()
        self._context.term()

    def signed(self, *parts: bytes, key: bytes | None = None) -> list[bytes]:
        session = Session(key=self.key if key is None else key, signature_scheme="hmac-sha256")
        return [DELIM, session.sign(list(parts)), *parts]

    def message(self, kind: str, content: Any, **options: Any) -> list[bytes]:
        header = {"msg_id": "x", "msg_type": kind, "session": "s", "username": "u", "version": "5.4"}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        return self.signed(*parts, **options)

    def alive(self, channel: str) -> None:
        """The kernel reads this channel and has read all that was sent before."""
        if channel == "stdin":
            channel = "shell"  # nothing is answered there; that it is read, cells with questions show
        self.sockets[channel].send_multipart(self.message("kernel_info_request", {"nonce": uuid.uuid4().hex}))
        while True:
            _, parts = Session().feed_identities(self.sockets[channel].recv_multipart())
            if json.loads(parts[1])["msg_type"] == "kernel_info_reply":
                return


@pytest.fixture
def raw(kernel: FrontEnd) -> Iterator[Raw]:
    raw = Raw(kernel)
    yield raw
    raw.close()


FRAMES = st.lists(st.binary(max_size=30) | st.sampled_from([DELIM, b"", b"{}", b"[]", b"null", b"\xff"]), min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KINDS = st.sampled_from(
    [
        "execute_request",
        "complete_request",
        "inspect_request",
        "is_complete_request",
        "history_request",
        "comm_info_request",
        "comm_open",
        "comm_msg",
        "comm_close",
        "input_reply",
        "debug_request",
        "no_such_request",
        "",
    ]
)
CONTENT = JSON | st.fixed_dictionaries(
    {},
    optional={
        "code": JSON,
        "cursor_pos": JSON,
        "detail_level": JSON,
        "silent": JSON,
        "user_expressions": JSON,
        "comm_id": JSON,
        "target_name": JSON,
        "data": JSON,
        "hist_access_type": st.sampled_from(["tail", "range", "search"]) | JSON,
        "n": JSON,
        "start": JSON,
        "pattern": JSON,
        "value": JSON,
    },
)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(channel=st.sampled_from(CHANNELS), frames=FRAMES)
def test_frames_that_are_no_message_are_dropped(raw: Raw, channel: str, frames: list[bytes]) -> None:
    raw.sockets[channel].send_multipart(frames)
    raw.alive(channel)


@FEW
@given(channel=st.sampled_from(CHANNELS), parts=st.lists(JSON, min_size=4, max_size=4))
def test_parts_that_are_signed_and_no_message_are_dropped(raw: Raw, channel: str, parts: list[Any]) -> None:
    raw.sockets[channel].send_multipart(raw.signed(*(json.dumps(part).encode() for part in parts)))
    raw.alive(channel)


@FEW
@given(kind=KINDS, content=CONTENT, channel=st.sampled_from(CHANNELS))
def test_messages_with_any_content_do_no_harm(raw: Raw, kind: str, content: Any, channel: str) -> None:
    raw.sockets[channel].send_multipart(raw.message(kind, content))
    raw.alive(channel)


def test_after_all_that_cells_run_and_ask(kernel: FrontEnd) -> None:
    running = kernel.execute("input('? ')", allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=60)
    kernel.client.input("42")
    assert kernel.ended(running).text == "'42'"


def test_what_is_signed_with_another_key_or_not_at_all_is_not_run(raw: Raw, kernel: FrontEnd) -> None:
    kernel.run("ran = []")
    order = {"code": "ran.append('wrong')", "silent": False}
    for frames in (
        raw.message("execute_request", order, key=b"another"),
        raw.message("execute_request", order, key=b""),
    ):
        raw.sockets["shell"].send_multipart(frames)
        raw.sockets["control"].send_multipart(raw.message("shutdown_request", {"restart": False}, key=b"another"))
    raw.alive("shell")
    raw.alive("control")
    assert kernel.run("ran").text == "[]"


def test_a_message_that_is_sent_again_is_not_run_again(raw: Raw, kernel: FrontEnd) -> None:
    kernel.run("ran = []")
    frames = raw.message("execute_request", {"code": "ran.append('once')", "silent": False})
    for _ in range(3):
        raw.sockets["shell"].send_multipart(frames)
    raw.alive("shell")
    assert kernel.run("ran").text == "['once']"


def test_what_comes_out_of_order_is_not_taken_for_something_else(raw: Raw, kernel: FrontEnd) -> None:
    raw.sockets["stdin"].send_multipart(raw.message("input_reply", {"value": "early"}))
    raw.sockets["shell"].send_multipart(raw.message("execute_reply", {"status": "ok"}))
    raw.sockets["shell"].send_multipart(raw.message("comm_msg", {"comm_id": "never opened", "data": {}}))
    raw.sockets["shell"].send_multipart(raw.message("comm_close", {"comm_id": "never opened", "data": {}}))
    raw.alive("shell")
    running = kernel.execute("input('? ')", allow_stdin=True)
    kernel.client.get_stdin_msg(timeout=60)
    raw.sockets["stdin"].send_multipart(raw.message("input_reply", {"value": "a stranger's"}))
    kernel.client.input("right")
    assert kernel.ended(running).text == "'right'"
