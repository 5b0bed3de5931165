"""Warm sandboxes outlive their controller, and a successor gives nobody one that is not what nobody has had."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from cellyard_controller.sandboxes import maker
from cellyard_controller.sandboxes.lifecycle import SandboxState
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker

from .conftest import Outliving, Yard, until

POOL = {"size": 2, "max": 2, "review_interval": 0.05}
KEPT: dict[str, Any] = {"on_stop": "keep", "pool": POOL}


def warm(yard: Yard) -> set[str]:
    """The instances that wait for a claim."""
    known = yard.controller.supervisor.sandboxes()
    return {each.instance_id for each in known if each.state is SandboxState.WARM}


async def filled(yard: Yard, **config: Any) -> set[str]:
    """A controller that was started, has filled its pool and was stopped; what it has left."""
    await yard.start(**{**KEPT, **config})
    await until(lambda: len(warm(yard)) == 2)
    left = warm(yard)
    await yard.stop()
    return left


async def test_what_is_warm_is_taken_up_attested_again_and_given(yard: Yard, runtime: Outliving) -> None:
    left = await filled(yard)
    assert left == set(runtime.list_of_ids())
    starts = runtime.starts
    stubs = await yard.start(**KEPT)
    await until(lambda: warm(yard) == left)
    assert sorted(runtime.attested) == sorted([*left, *left]), "when it was new, and when it was taken up"
    assert runtime.starts == starts
    runtime.hang_engine()
    wants = ker.KernelSettings(require=["container_isolation"])
    runs = [await stubs.run(name, "value 1", kernel=wants) for name in ("one", "two")]
    assert [run.end for run in runs] == [ex.EXECUTION_END_SUCCEEDED] * 2
    held = {each.instance_id for each in yard.controller.supervisor.sandboxes() if each.notebook is not None}
    assert held == left
    runtime.resume_engine()
    await until(lambda: len(warm(yard)) == 2)
    assert not warm(yard) & left
    await yard.stop()
    stubs = await yard.start(**KEPT)
    assert (await stubs.run("one", "value 2")).end == ex.EXECUTION_END_SUCCEEDED
    await until(lambda: len(warm(yard)) == 2)
    assert runtime.starts == starts + 2, "neither the claimed nor the warm ones were made anew"


async def test_whoever_asks_before_they_are_back_gets_one_of_them_and_none_is_made(
    yard: Yard, runtime: Outliving
) -> None:
    first, second = sorted(await filled(yard))
    for name in (first, second):
        runtime.drop_link(name, stay_away=True)
    starts = runtime.starts
    stubs = await yard.start(**KEPT)
    waits = aiter(stubs.start("nb", "value 1"))
    execution_id = (await anext(waits)).accepted.execution_id
    await until(lambda: yard.controller.supervisor._dealing._claims)
    assert warm(yard) == set()
    assert runtime.starts == starts
    runtime.let_dial(first)
    runtime.let_dial(second)
    async for _ in waits:
        pass
    done = await stubs.executions.Get(ex.GetExecution(notebook_id="nb", execution_id=execution_id))
    assert done.end == ex.EXECUTION_END_SUCCEEDED
    (held,) = [each for each in yard.controller.supervisor.sandboxes() if each.notebook is not None]
    assert held.instance_id in (first, second)


async def test_whoever_waits_for_one_that_does_not_come_back_gets_another_one(
    yard: Yard, runtime: Outliving, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = await filled(yard)
    for name in left:
        runtime.drop_link(name, stay_away=True)
    monkeypatch.setattr(maker, "_BACK_WITHIN", 0.3)
    stubs = await yard.start(**KEPT)
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
    await until(lambda: not left & set(runtime.list_of_ids()))
    await until(lambda: len(warm(yard)) == 2)


async def test_one_that_deviates_is_removed_and_replaced(yard: Yard, runtime: Outliving) -> None:
    left = await filled(yard)
    runtime.deviates = ["its memory.max is another one"]
    await yard.start(**KEPT)
    await until(lambda: not left & set(runtime.list_of_ids()))
    runtime.deviates = []
    await until(lambda: len(warm(yard)) == 2)
    assert not warm(yard) & left


@pytest.mark.parametrize("what", ["image", "age", "template", "no_pool"])
async def test_those_that_nobody_should_get_any_more_are_replaced_as_ever(
    yard: Yard, runtime: Outliving, what: str
) -> None:
    left = await filled(yard)
    now: dict[str, Any] = dict(KEPT)
    if what == "image":
        runtime.image = "a new one"
    elif what == "age":
        now["pool"] = {**POOL, "max_age": 0.001}
    elif what == "template":
        now["templates"] = {"default": {"memory": 1 << 28}}
    else:
        now["pool"] = {"size": 0, "review_interval": 0.05}
    await yard.start(**now)
    await until(lambda: not left & set(runtime.list_of_ids()))
    if what in ("image", "template"):
        await until(lambda: len(warm(yard)) == 2)
        assert not warm(yard) & left


async def test_one_whose_claim_was_not_committed_is_removed_and_given_to_nobody(yard: Yard, runtime: Outliving) -> None:
    """As where a controller is killed after it has told the agent whose the sandbox is."""
    stubs = await yard.start(**KEPT)
    await until(lambda: len(warm(yard)) == 2)
    await stubs.run("nb", "value 1")
    (claimed,) = [each.instance_id for each in yard.controller.supervisor.sandboxes() if each.notebook is not None]
    await until(lambda: len(warm(yard)) == 2)
    left = warm(yard)
    await yard.stop()
    database = sqlite3.connect(yard.folder / "data" / "cellyard.sqlite")
    with closing(database), database:
        database.execute("UPDATE sandboxes SET state = 'warm', notebook_key = NULL WHERE instance_id = ?", (claimed,))
    await yard.start(**KEPT)
    await until(lambda: claimed not in runtime.list_of_ids())
    await until(lambda: warm(yard) == left)


async def test_one_with_a_file_of_somebody_is_given_to_nobody_else(yard: Yard, runtime: Outliving) -> None:
    """As where a controller is killed after it has brought a claim's files in, and before it said more."""
    left = await filled(yard)
    touched = sorted(left)[0]
    runtime._sandboxes[touched].agent.untouched = False
    await yard.start(**KEPT)
    await until(lambda: touched not in runtime.list_of_ids())
    await until(lambda: len(warm(yard)) == 2)


async def test_one_that_is_not_back_yet_when_the_successor_stops_is_left_to_the_next(
    yard: Yard, runtime: Outliving
) -> None:
    left = await filled(yard)
    for name in left:
        runtime.drop_link(name, stay_away=True)
    starts = runtime.starts
    await yard.start(**KEPT)
    await yard.stop()
    for name in left:
        runtime.let_dial(name)
    await yard.start(**KEPT)
    await until(lambda: warm(yard) == left)
    assert runtime.starts == starts


async def test_without_keeping_nothing_is_left(yard: Yard, runtime: Outliving) -> None:
    await filled(yard, on_stop="remove")
    assert runtime.list_of_ids() == []
