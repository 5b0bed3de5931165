"""Whatever bytes a client sends to whatever method: an answer or a typed refusal, and a controller that goes on."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs
from tests.random_messages import Messages

from cellyard_proto.v1 import executions_pb2 as ex

from .conftest import Yard
from .direct_calls import Aborted, Method, call_within, methods_of
from .test_hostile_agent import MIB, resident

SEED = int(os.environ.get("HOSTILE_SEED", "20261121"))
NAMES = ("nb", "cell-1", "execution-1", "docker", "default", "none", "python", "code", "markdown", "a/b", "r-1", "s-1")
AT_A_TIME = 32
WAITED_FOR = 0.2
"""Seconds for a call that waits for something to happen."""
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


class Attempts:
    """Requests for all methods in turn: well formed, damaged, and plain garbage."""

    def __init__(self, methods: list[Method], seed: int) -> None:
        self._methods = itertools.cycle(methods)
        self._messages = Messages(seed, NAMES)

    def next(self) -> tuple[Method, list[bytes]]:
        """A method and what it gets: one message, or a few where it takes many."""
        method, random = next(self._methods), self._messages.random
        count = random.choice((0, 1, 1, 2, 4, 8)) if method.takes_many else 1
        return method, [self._content(method, first=number == 0) for number in range(count)]

    def _content(self, method: Method, *, first: bool) -> bytes:
        random = self._messages.random
        message = self._messages.fill(method.message())
        opening = {"Upload": "begin", "Exec": "start", "Sync": "open"}.get(method.path.rpartition("/")[2])
        named = getattr(message, opening) if first and opening and random.random() < 0.7 else message
        if hasattr(named, "notebook_id") and random.random() < 0.7:
            named.notebook_id = "nb"
        content = message.SerializeToString()
        match random.randrange(5):
            case 0:
                return self._messages.damaged(content)
            case 1:
                return random.randbytes(random.randint(0, 60))
            case _:
                return content


def told_of_defects(logged: list[Any]) -> list[Any]:
    """What the log says of calls that failed inside, and of anything else that nobody expected."""
    return [each for each in logged if each["log_level"] in ("critical", "error") or "exc_info" in each]


async def attempt(attempts: Attempts, count: int) -> Counter[str]:
    """Makes that many attempts, some at a time. Returns how often there was which answer."""
    seen: Counter[str] = Counter()
    left = iter(range(count))

    async def attack(numbers: Iterator[int]) -> None:
        for _ in numbers:
            method, contents = attempts.next()
            try:
                seen["answered" if await call_within(WAITED_FOR, method, contents) else "waited"] += 1
            except Aborted as refused:
                if refused.code in NEVER or not refused.reason:
                    pytest.fail(f"{method.path} with {contents}: {refused}")
                seen[refused.reason] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(attack(left))
    return seen


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(0)])])
async def test_a_request_is_carried_out_or_refused_and_nothing_else(yard: Yard, count: int) -> None:
    stubs = await yard.start()
    await stubs.run("nb", "value 1")
    methods = await methods_of(yard.controller)
    attempts = Attempts(methods, SEED)
    with capture_logs() as logged:
        await attempt(attempts, 2_000)  # what is made once is made
        before = resident()
        seen = await attempt(attempts, count)
    assert told_of_defects(logged) == []
    assert resident() - before < 100 * MIB
    assert seen.total() == count
    assert seen["answered"] > count // 20
    assert seen["INVALID_REQUEST"] > count // 5
    assert (await stubs.run("good", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
