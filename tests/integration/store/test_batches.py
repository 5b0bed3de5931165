"""Statements that are sent together, by jobs that share a transaction: each job is stored whole or not at all."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError
from tests.stores import Ground

from cellyard_controller.store import Store
from cellyard_controller.store.hot import Hot
from cellyard_controller.store.schema import meta

ADD = Hot(insert(meta), ("key", "value"))
SET = Hot(update(meta).where(meta.c.key == bindparam("this")).values(value=bindparam("new")))
CALM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
KEYS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("hot"), KEYS, st.sampled_from(["", "it's 100 %s; \\ \0 \n--", "x" * 70_000])),
    st.tuples(st.just("set"), KEYS, st.text(st.characters(exclude_categories=["Cs"]), max_size=5)),
    st.tuples(st.just("plain"), KEYS, st.just("p")),
    st.tuples(st.just("look"), KEYS, st.just("")),
    st.tuples(st.just("raise"), KEYS, st.just("")),
    st.tuples(st.just("unfit"), KEYS, st.just("\ud800")),
)
Step = tuple[str, int, str]
numbers = itertools.count()


class OwnError(Exception):
    """A job's own."""


@pytest.fixture
async def store(ground: Ground) -> AsyncIterator[Store]:
    store = ground.open()
    yield store
    store.close()


def work(connection: Connection, steps: list[Step], prefix: str) -> list[str | None]:
    seen = []
    for what, number, value in steps:
        key = f"{prefix}{number}"
        if what == "hot":
            ADD(connection, {"key": key, "value": value})
        elif what in ("set", "unfit"):
            SET(connection, {"this": key, "new": value})
        elif what == "plain":
            connection.execute(insert(meta).values(key=key, value=value))
        elif what == "look":
            seen.append(connection.execute(select(meta.c.value).where(meta.c.key == key)).scalar())
        else:
            raise OwnError
    return seen


def expected(steps: list[Step], stored: dict[int, str]) -> tuple[dict[int, str], object]:
    """What is stored after a job, and what it gives or raises."""
    after, seen, conflict = dict(stored), [], False
    for what, number, value in steps:
        if what in ("raise", "unfit"):
            own = OwnError if what == "raise" else UnicodeEncodeError
            # A conflict may be known before, or not.
            return stored, (own, IntegrityError) if conflict else own
        if what == "look":
            if conflict:
                return stored, IntegrityError
            seen.append(after.get(number))
        elif what in ("set", "unfit"):
            after |= {number: value} if number in after else {}
        elif number in after:
            conflict = True
        else:
            after[number] = value
    return (stored, IntegrityError) if conflict else (after, seen)


@CALM
@given(jobs=st.lists(st.lists(STEPS, max_size=5), min_size=1, max_size=6))
async def test_jobs_that_share_a_commit_do_not_get_into_each_others_way(store: Store, jobs: list[list[Step]]) -> None:
    prefix = f"k{next(numbers)}-"
    go_on = threading.Event()
    ahead = asyncio.ensure_future(store.write(lambda _: go_on.wait()))
    posted = [asyncio.ensure_future(store.write(partial(work, steps=steps, prefix=prefix))) for steps in jobs]
    await asyncio.sleep(0)  # they are in the queue, behind one that is at work
    go_on.set()
    outcomes = await asyncio.gather(*posted, return_exceptions=True)
    await ahead
    stored: dict[int, str] = {}
    for steps, outcome in zip(jobs, outcomes, strict=True):
        stored, wanted = expected(steps, stored)
        if isinstance(wanted, list):
            assert outcome == wanted
        else:
            assert isinstance(outcome, wanted)  # type: ignore[arg-type]
    rows = await store.read(
        lambda connection: connection.execute(select(meta).where(meta.c.key.startswith(prefix))).all()
    )
    assert {row.key: row.value for row in rows} == {f"{prefix}{number}": value for number, value in stored.items()}
