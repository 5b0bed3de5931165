"""Whatever bytes a client sends to whatever method: an answer or a typed refusal, and a controller that goes on."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from structlog.processors import format_exc_info
from structlog.testing import capture_logs
from tests.random_messages import Messages

from cellyard_proto.v1 import executions_pb2 as ex

from .conftest import Yard
from .direct_calls import Aborted, Method, call_within, methods_of
from .test_hostile_agent import MIB, resident
from .valid_requests import valid_requests

SEED = int(os.environ.get("HOSTILE_SEED", "20261121"))
AT_A_TIME = 32
WAITED_FOR, ANSWERED_WITHIN = 0.2, 60
"""Seconds for a stream, which may wait for something to happen, and for an answer, which has to come."""
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class Attempts:
    """Requests for all methods in turn: valid, altered, random, damaged, and plain garbage."""

    def __init__(self, methods: list[Method], valid: dict[str, Sequence[Message]], seed: int) -> None:
        self._methods, self._valid = itertools.cycle(methods), valid
        self._numbers = itertools.count()
        names = {value for each in valid.values() for value in _texts(each)}
        self._messages = Messages(seed, tuple(sorted(names)))

    def next(self) -> tuple[Method, list[bytes]]:
        """A method and what it gets: one message, or a few where it takes many."""
        method, random = next(self._methods), self._messages.random
        if random.random() < 0.3:
            count = random.choice((0, 1, 1, 2, 4, 8)) if method.takes_many else 1
            return method, [self._damaged(self._messages.fill(method.message())) for _ in range(count)]
        messages = [copy.deepcopy(message) for message in self._valid[method.path]]
        for message in messages:
            if "request_id" in message.DESCRIPTOR.fields_by_name and random.random() < 0.9:
                message.request_id = f"r-{next(self._numbers)}"  # type: ignore[attr-defined]
        if random.random() < 0.7:
            self._messages.altered(random.choice(messages))
        return method, [self._damaged(message) for message in messages]

    def _damaged(self, message: Message) -> bytes:
        random, content = self._messages.random, message.SerializeToString()
        match random.randrange(10):
            case 0 | 1:
                return self._messages.damaged(content)
            case 2:
                return random.randbytes(random.randint(0, 60))
            case _:
                return content


def _texts(messages: Iterable[Message]) -> Iterator[str]:
    for message in messages:
        for field, value in message.ListFields():
            if isinstance(value, str):
                yield value
            elif field.message_type and not field.is_repeated:
                yield from _texts([value])


def told_of_defects(logged: list[Any]) -> list[Any]:
    """What the log says of calls that failed inside, and of anything else that nobody expected."""
    return [each for each in logged if each["log_level"] in ("critical", "error") or "exception" in each]


async def attempt(attempts: Attempts, count: int) -> Counter[str]:
    """Makes that many attempts, some at a time. Returns how often there was which answer."""
    seen: Counter[str] = Counter()
    left = iter(range(count))

    async def attack(numbers: Iterator[int]) -> None:
        for _ in numbers:
            method, contents = attempts.next()
            streams = method.handler.stream_stream is not None
            try:
                answers = await call_within(WAITED_FOR if streams else ANSWERED_WITHIN, method, contents)
                assert answers or streams, (method.path, contents)
                seen["answered" if answers else "waited"] += 1
            except Aborted as refused:
                if refused.code in NEVER or not refused.reason:
                    pytest.fail(f"{method.path} with {contents}: {refused}")
                seen[refused.reason] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(attack(left))
    return seen


@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(0)])])
async def test_a_request_is_carried_out_or_refused_and_nothing_else(yard: Yard, count: int) -> None:
    stubs = await yard.start()
    ran = await stubs.run("nb", "value 1")
    methods = await methods_of(yard.controller)
    attempts = Attempts(methods, valid_requests(ran.cell_id, ran.execution_id), SEED)
    with capture_logs([format_exc_info]) as logged:
        await attempt(attempts, 2_000)  # what is made once is made
        before = resident()
        seen = await attempt(attempts, count)
    assert told_of_defects(logged) == []
    assert resident() - before < 100 * MIB
    assert seen.total() == count
    assert seen["answered"] > count // 20
    assert seen["INVALID_REQUEST"] > count // 5
    assert (await stubs.run("good", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
