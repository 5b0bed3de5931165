"""Traces from the caller's program through the controller to the agent, as an operator's receiver gets them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.otlp_receiver import Receiver, attributes

import cellyard
from cellyard_proto.v1 import executions_pb2 as ex

from .conftest import Yard

WITHIN = 60.0
EXECUTE = "cellyard.v1.Executions/Execute"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def program() -> InMemorySpanExporter:
    """The spans of the user's program, which is this process."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def session(yard: Yard, **more: Any) -> cellyard.AsyncSession:
    return cellyard.AsyncSession(notebook_id="nb", endpoint=f"unix:{yard.folder}/c.sock", **more)


async def received(receiver: Receiver, *names: str) -> dict[str, Any]:
    return await asyncio.to_thread(partial(receiver.spans, *names))


async def test_one_trace_leads_from_the_caller_to_the_agent_and_holds_no_content(
    yard: Yard, receiver: Receiver, program: InMemorySpanExporter
) -> None:
    await yard.start(tracing={"endpoint": receiver.endpoint})
    with trace.get_tracer("program").start_as_current_span("my work") as mine:
        async with session(yard, env={"KEY": "secret-in-env"}) as client:
            result = await client.run("print secret-in-output\nvalue secret-in-value # secret-in-source")
            assert result.success
    names = (EXECUTE, "cellyard.execution", "cellyard.queued", "cellyard.claim", "cellyard.claim.create")
    spans = await received(receiver, *names, "cellyard.claim.kernel", "cellyard.agent", "cellyard.run")
    (ours,) = [span for span in program.get_finished_spans() if span.name == "cellyard.run"]
    assert ours.parent is not None
    assert ours.parent.span_id == mine.get_span_context().span_id
    assert ours.attributes is not None
    assert ours.attributes["cellyard.execution_id"] == result.execution_id
    parents = {
        EXECUTE: ours.get_span_context().span_id.to_bytes(8),
        "cellyard.execution": spans[EXECUTE].span_id,
        "cellyard.queued": spans["cellyard.execution"].span_id,
        "cellyard.claim": spans["cellyard.execution"].span_id,
        "cellyard.claim.create": spans["cellyard.claim"].span_id,
        "cellyard.claim.kernel": spans["cellyard.claim"].span_id,
        "cellyard.agent": spans["cellyard.execution"].span_id,
        "cellyard.run": spans["cellyard.agent"].span_id,
    }
    assert {name: span.parent_span_id for name, span in spans.items()} == parents
    assert {span.trace_id for span in spans.values()} == {mine.get_span_context().trace_id.to_bytes(16)}
    for span in spans.values():
        assert span.start_time_unix_nano <= span.end_time_unix_nano
    said = attributes(spans["cellyard.execution"])
    assert said["cellyard.execution_id"] == result.execution_id
    assert (said["cellyard.notebook_id"], said["cellyard.end"]) == ("nb", "succeeded")
    assert attributes(spans["cellyard.claim"])["cellyard.found"] == "cold"
    assert attributes(spans[EXECUTE])["cellyard.outcome"] == "ok"
    await yard.stop()
    everything = b"".join(receiver.bodies)
    assert b"secret-in-" not in everything
    assert b"cellyard.tenant" not in everything


async def test_a_trace_goes_on_over_a_connection_that_breaks(
    yard: Yard, receiver: Receiver, program: InMemorySpanExporter
) -> None:
    await yard.start(tracing={"endpoint": receiver.endpoint, "tenants": True})
    with trace.get_tracer("program").start_as_current_span("my work") as mine:
        async with session(yard) as client:
            started = asyncio.Event()
            run = asyncio.ensure_future(
                client.run("print begun\ngate open\nvalue 1", on_output=lambda _: started.set())
            )
            await asyncio.wait_for(started.wait(), WITHIN)
            connection = client._transport.standing()
            assert connection is not None
            await connection.channel.close()
            attached = "cellyard.v1.Executions/Attach"
            # The broken call's span is there as soon as the controller has noticed; the new one's when it ends.
            await received(receiver, EXECUTE)
            yard.runtime.open("open")
            assert (await run).value == 1
    spans = await received(receiver, EXECUTE, attached, "cellyard.execution")
    assert {span.trace_id for span in spans.values()} == {mine.get_span_context().trace_id.to_bytes(16)}
    assert spans[attached].parent_span_id == spans[EXECUTE].parent_span_id
    assert attributes(spans["cellyard.execution"])["cellyard.tenant"] == "local"


async def test_without_an_active_span_the_controller_begins_the_trace(yard: Yard, receiver: Receiver) -> None:
    stubs = await yard.start(tracing={"endpoint": receiver.endpoint})
    done = await stubs.run("nb", "error ValueError secret-in-error")
    assert done.end == ex.EXECUTION_END_FAILED
    spans = await received(receiver, EXECUTE, "cellyard.execution")
    assert spans[EXECUTE].parent_span_id == b""
    assert spans["cellyard.execution"].parent_span_id == spans[EXECUTE].span_id
    await yard.stop()
    assert b"secret-in-" not in b"".join(receiver.bodies)


@pytest.mark.parametrize("given", ["", "00-0-0-00", "x" * 4000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_trace_context_that_is_none_is_ignored(yard: Yard, receiver: Receiver, given: str) -> None:
    stubs = await yard.start(tracing={"endpoint": receiver.endpoint})
    start = ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="c", source="value 1"))
    events = [event async for event in stubs.executions.Execute(start, metadata=(("traceparent", given),))]
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED
    assert (await received(receiver, EXECUTE))[EXECUTE].parent_span_id == b""


async def test_an_agent_that_lies_about_its_span_is_not_believed(yard: Yard, receiver: Receiver) -> None:
    from cellyard_controller.executions.model import Outcome, Usage
    from cellyard_controller.executions.reports import Ended
    from cellyard_controller.tracing import ExecutionTrace, Traces

    stubs = await yard.start(tracing={"endpoint": receiver.endpoint})
    await stubs.run("nb", "value 1")
    traces = yard.controller._traces
    assert isinstance(traces, Traces)
    for wall, echoes in ((1e300, True), (float("nan"), True), (-5.0, True), (1.0, False)):
        traced = ExecutionTrace(traces, traces.start("cellyard.lied_to", None))
        parent = traced.sent() if echoes else "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
        usage = Usage(wall_s=wall, peak_memory_bytes=-1, cpu_s=float("inf"))
        told = Ended(Outcome.OK, 1, None, "", "", usage, traceparent=parent, waited_s=wall)
        traced.sent()
        assert traced._agent is not None
        traced._told(traced._agent, told)
        traced.left()
    await yard.stop()
    runs, lied_to = receiver.all("cellyard.run"), receiver.all("cellyard.lied_to")
    assert len(runs) == 4  # the honest one, and three that were cut to what can be; none of what is not ours
    for run in runs[1:]:
        assert min(span.start_time_unix_nano for span in lied_to) <= run.start_time_unix_nano
        assert run.start_time_unix_nano <= run.end_time_unix_nano


@pytest.mark.parametrize("slow", [False, True])
async def test_a_receiver_that_is_dead_or_slow_hurts_nobody(yard: Yard, slow: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes connections and says nothing
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1] if slow else 9}/v1/traces"
        stubs = await yard.start(tracing={"endpoint": endpoint})
        for number in range(20):
            assert (await stubs.run("nb", f"value {number}")).end == ex.EXECUTION_END_SUCCEEDED
        async with asyncio.timeout(WITHIN):
            await yard.stop()


def test_nothing_of_opentelemetry_is_imported_where_nobody_wants_traces() -> None:
    program = (
        "import sys, cellyard, cellyard_controller.app\n"
        "from cellyard_controller import tracing; from cellyard_controller.config import Config\n"
        "assert tracing.configured(Config().tracing, '', '') is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=WITHIN)
    assert found.stdout.strip() == "[]"
