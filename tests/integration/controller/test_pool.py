"""Sandboxes that wait for their notebook, those who wait for a sandbox, and how room is made: on scripted kernels."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard

WAIT_S = 30.0
POOL_OF_TWO = {"size": 2, "review_interval": 0.05}


class Ward:
    """Follows all sandboxes, as the operator sees them."""

    def __init__(self, stubs: Stubs) -> None:
        self._stream = stubs.sandboxes.Watch(sb.WatchSandboxes())
        self._changed = asyncio.Condition()
        self._following = asyncio.ensure_future(self._follow())
        self.sandboxes: dict[str, sb.Sandbox] = {}
        self.caught_up = False

    async def _follow(self) -> None:
        async for event in self._stream:
            async with self._changed:
                if event.HasField("sandbox"):
                    self.sandboxes[event.sandbox.sandbox_id] = event.sandbox
                else:
                    self.caught_up = True
                self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(condition)

    def of(self, state: sb.SandboxState.ValueType) -> list[sb.Sandbox]:
        return [each for each in self.sandboxes.values() if each.state == state]

    @property
    def warm(self) -> list[sb.Sandbox]:
        return self.of(sb.SANDBOX_STATE_WARM)

    def close(self) -> None:
        self._following.cancel()
        self._stream.cancel()


@asynccontextmanager
async def ward(stubs: Stubs) -> AsyncIterator[Ward]:
    followed = Ward(stubs)
    try:
        await followed.until(lambda: followed.caught_up)
        yield followed
    finally:
        followed.close()


async def tenant(stubs: Stubs, name: str, **quotas: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a new tenant's calls."""
    created = await stubs.tenants.Create(te.CreateTenant(name=name, quotas=quotas))
    return (("authorization", f"Bearer {created.token}"),)


async def begin(stubs: Stubs, notebook: str, source: str, who: Any = (), **more: Any) -> Any:
    """A stream of a new execution."""
    start = ex.Start(notebook_id=notebook, source=ex.NewCell(cell_id=str(uuid.uuid4()), source=source), **more)
    return stubs.executions.Execute(start, metadata=who)


async def event(stream: Any, *kinds: str) -> Any:
    """The next event of one of these kinds."""
    async with asyncio.timeout(WAIT_S):
        async for each in stream:
            if each.WhichOneof("event") in kinds:
                return each
    raise AssertionError(f"no {kinds} came")


async def test_a_claim_needs_no_engine_and_starts_nothing(yard: Yard) -> None:
    stubs = await yard.start(pool=POOL_OF_TWO)
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 2)
        yard.runtime.hang_engine()  # what refills the pool waits; nothing else has to
        starts = yard.runtime.starts
        execution = await stubs.run("nb", "value 2", kernel=ker.KernelSettings(require=["container_isolation"]))
        assert execution.end == ex.EXECUTION_END_SUCCEEDED
        (claimed,) = seen.of(sb.SANDBOX_STATE_CLAIMED)
        assert claimed.notebook_id == "nb"
        assert yard.runtime.starts <= starts + 1, "one more for the pool"
        yard.runtime.resume_engine()
        await seen.until(lambda: len(seen.warm) == 2)
    (pool,) = (await stubs.sandboxes.ListPools(sb.ListPoolsRequest())).pools
    assert (pool.template, pool.warm, pool.claimed, pool.hits, pool.misses) == ("default", 2, 1, 1, 0)


async def test_many_claims_at_once_each_get_a_sandbox_of_their_own(yard: Yard) -> None:
    stubs = await yard.start(pool=POOL_OF_TWO)
    runs = await asyncio.gather(*(stubs.run(f"nb-{number}", "value 1") for number in range(20)))
    assert all(run.end == ex.EXECUTION_END_SUCCEEDED for run in runs)
    listed = (await stubs.sandboxes.List(sb.ListSandboxes())).sandboxes
    claimed = [each.notebook_id for each in listed if each.state == sb.SANDBOX_STATE_CLAIMED]
    assert sorted(claimed) == sorted(f"nb-{number}" for number in range(20))


async def test_variables_files_and_the_list_come_with_the_claim(yard: Yard) -> None:
    stubs = await yard.start(pool=POOL_OF_TWO)
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 2)
        settings = ker.KernelSettings(env={"A": "1"}, files=[ker.InlineFile(name="x", content=b"here")])
        await stubs.run("nb", "value 1", kernel=settings)
        (claimed,) = seen.of(sb.SANDBOX_STATE_CLAIMED)
        assert yard.runtime.kernel_env(claimed.container_id) == {"A": "1"}
        assert yard.runtime.files(claimed.container_id) == {"x": b"here"}
        for other in seen.warm:
            assert yard.runtime.kernel_env(other.container_id) == {}


async def test_a_warm_one_that_dies_or_gets_old_or_whose_image_changes_is_replaced(yard: Yard) -> None:
    stubs = await yard.start(pool={**POOL_OF_TWO, "size": 1})
    async with ward(stubs) as seen:

        async def replaced(old: sb.Sandbox) -> sb.Sandbox:
            await seen.until(lambda: bool(seen.warm) and seen.warm[0].sandbox_id != old.sandbox_id)
            return seen.warm[0]

        await seen.until(lambda: len(seen.warm) == 1)
        first = seen.warm[0]
        await yard.runtime.kill(first.container_id)
        second = await replaced(first)
        assert seen.sandboxes[first.sandbox_id].end_reason == "exit"
        yard.runtime.drop_link(second.container_id, stay_away=True)
        third = await replaced(second)
        assert seen.sandboxes[second.sandbox_id].end_reason == "runtime_lost"
        yard.runtime.image = "a new one"
        fourth = await replaced(third)
        assert seen.sandboxes[third.sandbox_id].end_reason == "evicted"
        assert fourth.sandbox_id not in (first.sandbox_id, second.sandbox_id, third.sandbox_id)


async def test_old_warm_ones_are_replaced(yard: Yard) -> None:
    stubs = await yard.start(pool={"size": 1, "review_interval": 0.02, "max_age": 0.05})
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.of(sb.SANDBOX_STATE_ENDED)) >= 3)


async def test_a_pool_that_cannot_be_filled_is_tried_again_and_harms_nobody(yard: Yard) -> None:
    stubs = await yard.start(pool={**POOL_OF_TWO, "size": 1})
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 1)
        yard.runtime.fail_next_start("image_missing", "the image is not there: make image")
        await yard.runtime.kill(seen.warm[0].container_id)
        await seen.until(lambda: len(seen.of(sb.SANDBOX_STATE_ENDED)) == 2)
        (pool,) = (await stubs.sandboxes.ListPools(sb.ListPoolsRequest())).pools
        assert pool.failures == 1
        assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
        await seen.until(lambda: len(seen.warm) == 1)


async def test_a_claim_whose_sandbox_does_not_come_up_is_told_why_once(yard: Yard) -> None:
    yard.runtime.fail_next_start("image_missing", "the image is not there: make image")
    stubs = await yard.start()
    execution = await stubs.run("nb", "value 1")
    assert (execution.end, execution.end_reason) == (ex.EXECUTION_END_CANCELLED, "image_missing")
    assert "make image" in execution.end_message
    assert yard.runtime.starts == 1, "it is not tried a second time for the same claim"
    assert (await stubs.run("nb", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_whoever_is_past_a_quota_waits_and_is_told_and_served_when_it_has_room(yard: Yard) -> None:
    stubs = await yard.start()
    anne, bert = await tenant(stubs, "anne", sandboxes="1"), await tenant(stubs, "bert")
    first = await begin(stubs, "one", "value 1", anne)
    await event(first, "finished")
    second = await begin(stubs, "two", "value 2", anne)
    waiting = (await event(second, "waiting")).waiting
    assert (waiting.reason, waiting.position) == ("sandboxes", 0)
    third = await begin(stubs, "three", "value 3", anne)
    assert (await event(third, "waiting")).waiting.position == 1
    other = await begin(stubs, "other", "value 4", bert)
    assert (await event(other, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="one"), metadata=anne)
    assert (await event(second, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED
    assert (await event(third, "waiting")).waiting.position == 0


async def test_after_its_start_timeout_a_claim_is_refused_for_the_quota(yard: Yard) -> None:
    stubs = await yard.start(capacity={"sandboxes": 1})
    await stubs.run("one", "value 1")
    late = await stubs.run("two", "value 2", kernel=ker.KernelSettings(start_timeout_s=0.2))
    assert (late.end, late.end_reason) == (ex.EXECUTION_END_CANCELLED, "quota_exceeded")
    assert "the machine has no room for another sandbox" in late.end_message
    start = ker.StartKernel(notebook_id="three", settings=ker.KernelSettings(start_timeout_s=0.2))
    with pytest.raises(grpc.aio.AioRpcError, match=r"no sandbox within the start_timeout of 0\.2 s") as refused:
        async for _ in stubs.kernels.Start(start):
            pass
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await stubs.run("one", "value 1")).end == ex.EXECUTION_END_SUCCEEDED


async def test_whoever_waits_for_others_is_no_miss_of_the_pool(yard: Yard) -> None:
    stubs = await yard.start(pool={**POOL_OF_TWO, "size": 1})
    anne = await tenant(stubs, "anne", sandboxes="1")
    async with ward(stubs) as seen:
        await seen.until(lambda: len(seen.warm) == 1)
        await event(await begin(stubs, "one", "value 1", anne), "finished")
        await event(await begin(stubs, "two", "value 2", anne), "waiting")
    (pool,) = (await stubs.sandboxes.ListPools(sb.ListPoolsRequest())).pools
    assert (pool.hits, pool.misses) == (1, 0)


async def test_what_is_cancelled_leaves_the_queue_at_once(yard: Yard) -> None:
    stubs = await yard.start(capacity={"sandboxes": 1})
    await stubs.run("one", "value 1")
    second = await begin(stubs, "two", "value 2")
    execution_id = (await event(second, "accepted")).accepted.execution_id
    await event(second, "waiting")
    third = await begin(stubs, "three", "value 3")
    assert (await event(third, "waiting")).waiting.position == 1
    await stubs.executions.Cancel(ex.CancelExecution(notebook_id="two", execution_id=execution_id))
    assert (await event(third, "waiting")).waiting.position == 0
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="two"))
    assert kernel.state == ker.KERNEL_STATE_NONE


async def test_whoever_stops_waiting_for_a_kernel_leaves_the_queue(yard: Yard) -> None:
    stubs = await yard.start(capacity={"sandboxes": 1})
    await stubs.run("one", "value 1")
    start = stubs.kernels.Start(ker.StartKernel(notebook_id="two"))
    async for told in start:
        if told.progress.stage == "waiting":
            break
    third = await begin(stubs, "three", "value 3")
    assert (await event(third, "waiting")).waiting.position == 1
    start.cancel()
    assert (await event(third, "waiting")).waiting.position == 0


async def test_an_idle_sandbox_makes_room_for_a_tenant_with_less_and_its_next_user_is_told(yard: Yard) -> None:
    stubs = await yard.start(
        capacity={"sandboxes": 2}, sandboxes={"evict_after": 0.05}, pool={"size": 0, "review_interval": 0.02}
    )
    anne, bert = await tenant(stubs, "anne"), await tenant(stubs, "bert")
    await event(await begin(stubs, "idle", "value 1", anne), "finished")
    busy = await begin(stubs, "busy", "hang", anne)
    await event(busy, "started")
    mine = await begin(stubs, "mine", "value 2", bert)
    assert (await event(mine, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED
    evicted = await stubs.kernels.Get(ker.GetKernel(notebook_id="idle"), metadata=anne)
    assert (evicted.state, evicted.end_reason) == (ker.KERNEL_STATE_DEAD, "evicted")
    await stubs.kernels.Shutdown(ker.ShutdownKernel(notebook_id="busy"), metadata=anne)
    again = await begin(stubs, "idle", "value 3", anne, request_id="again")
    warning = (await event(again, "warning")).warning
    assert warning.kind == "new_kernel"
    assert "evicted" in warning.message
    assert (await event(again, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_one_that_is_used_is_not_evicted(yard: Yard) -> None:
    stubs = await yard.start(
        capacity={"sandboxes": 1}, sandboxes={"evict_after": 0.02}, pool={"size": 0, "review_interval": 0.02}
    )
    anne, bert = await tenant(stubs, "anne"), await tenant(stubs, "bert")
    busy = await begin(stubs, "busy", "gate g", anne)
    await event(busy, "started")
    late = await begin(stubs, "late", "value 2", bert, kernel=ker.KernelSettings(start_timeout_s=0.5))
    assert (await event(late, "finished")).finished.end_reason == "quota_exceeded"
    yard.runtime.open("g")
    assert (await event(busy, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_whoever_waits_for_room_is_served_by_a_successor(yard: Yard) -> None:
    stubs = await yard.start(capacity={"sandboxes": 1}, on_stop="keep")
    await stubs.run("one", "value 1")
    waiting = await begin(stubs, "two", "value 2")
    execution_id = (await event(waiting, "accepted")).accepted.execution_id
    await event(waiting, "waiting")
    waiting.cancel()
    await yard.stop()
    stubs = await yard.start()
    attached = stubs.executions.Attach(ex.AttachExecution(notebook_id="two", execution_id=execution_id))
    assert (await event(attached, "finished")).finished.end == ex.EXECUTION_END_SUCCEEDED


async def test_a_sandbox_larger_than_the_machine_is_refused_at_once(yard: Yard) -> None:
    stubs = await yard.start(capacity={"cpus": 0.5})
    with pytest.raises(grpc.aio.AioRpcError, match=r"capacity\.cpu"):
        await stubs.run("nb", "value 1")


async def test_a_kernel_can_be_extended_and_its_end_is_counted_anew(yard: Yard) -> None:
    stubs = await yard.start()
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await stubs.kernels.Extend(ker.ExtendKernel(notebook_id="nb"))
    await stubs.run("nb", "value 1", kernel=ker.KernelSettings(ttl_s=100))
    before = await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))
    longer = await stubs.kernels.Extend(ker.ExtendKernel(notebook_id="nb", ttl_s=5_000))
    assert 4_990 < longer.expires_at - before.claimed_at < 5_100
    again = await stubs.kernels.Extend(ker.ExtendKernel(notebook_id="nb"))
    assert 99 < again.expires_at - before.claimed_at < 200
    await yard.stop()


async def test_tenants_see_their_own_sandboxes_alone(yard: Yard) -> None:
    stubs = await yard.start(pool={**POOL_OF_TWO, "size": 1})
    anne, bert = await tenant(stubs, "anne"), await tenant(stubs, "bert")
    watching = stubs.sandboxes.Watch(sb.WatchSandboxes(), metadata=anne)
    first = await anext(aiter(watching))
    assert first.HasField("caught_up"), "a warm one is nobody's"
    await event(await begin(stubs, "theirs", "value 1", bert), "finished")
    await event(await begin(stubs, "mine", "value 1", anne), "finished")
    seen = await event(watching, "sandbox")
    assert (seen.sandbox.notebook_id, seen.sandbox.tenant) == ("mine", "anne")
    with pytest.raises(grpc.aio.AioRpcError, match="operator"):
        await stubs.sandboxes.ListPools(sb.ListPoolsRequest(), metadata=anne)
