"""Controllers that go and come: nothing is lost, nothing comes twice, nothing runs twice."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.agent.controller import AgentProcess, Controller

from cellyard_proto.v1 import link_pb2


async def test_output_goes_on_where_the_last_controller_had_committed(kernel: Controller) -> None:
    source = "import time\nfor n in range(3_000):\n    print(n, flush=True)\n    if n % 100 == 0: display(n)\n'done'"
    run = kernel.dispatch("a", source)
    for _ in range(5):
        before = kernel.received
        await kernel.until(lambda before=before: kernel.received > before or run.ended is not None)
        kernel.acknowledges = False
        before = kernel.received
        await kernel.until(lambda before=before: kernel.received > before or run.ended is not None)
        kernel.drop()
        kernel.forget_uncommitted()
        kernel.acknowledges = True
        hellos = len(kernel.hellos)
        await kernel.until(lambda hellos=hellos: len(kernel.hellos) > hellos)
    await kernel.until(lambda: run.ended is not None)
    assert run.text() == "".join(f"{n}\n" for n in range(3_000))
    assert len([kind for kind in run.kinds if kind == "started"]) == 1
    numbers = [event.number for event in run.events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "the controller checked each, too"
    assert [output["data"]["text/plain"] for output in run.outputs if "data" in output][:30] == [
        str(n) for n in range(0, 3_000, 100)
    ]


async def test_a_cell_runs_to_its_end_while_no_controller_is_there(kernel: Controller) -> None:
    run = kernel.dispatch("a", "import time\nfor n in range(5):\n    print(n); time.sleep(0.1)\n'value'")
    await kernel.until(lambda: run.started)
    await kernel.close()
    await asyncio.sleep(1)  # the cell ends meanwhile, and nobody is there to be told
    await kernel.listen()
    await kernel.until(lambda: run.ended is not None)
    assert kernel.hellos[-1].held_executions == ["a"]
    assert run.text() == "0\n1\n2\n3\n4\n"
    assert run.value is not None


async def test_a_dispatch_that_is_sent_again_after_a_reconnect_runs_once(kernel: Controller) -> None:
    await kernel.run("count", "ran = 0")
    source = "ran += 1; import time; time.sleep(0.3)"
    run = kernel.dispatch("a", source)
    await kernel.until(lambda: run.started)
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    assert kernel.hellos[-1].held_executions == ["a"]
    kernel.dispatch("a", source)
    await kernel.until(lambda: run.ended is not None)
    counted = await kernel.run("b", "ran")
    assert counted.value is not None
    assert counted.value.json == "1"


async def test_what_was_sent_before_a_drop_is_read_before_the_next_hello(kernel: Controller) -> None:
    for number in range(20):
        kernel.dispatch(f"e{number}", "print('ran')")
        kernel.hang_up()
        await kernel.until(lambda number=number: len(kernel.hellos) == number + 2)
        run = kernel.records[f"e{number}"]
        held = kernel.hellos[-1].held_executions
        assert held == [f"e{number}"]
        await kernel.until(lambda run=run: run.ended is not None)
        await kernel.until(lambda: kernel.committed == kernel.received)


@pytest.mark.parametrize("what", ["claim", "flow", "ping"])
async def test_the_hello_says_whether_anybody_has_had_the_sandbox(kernel: Controller, what: str) -> None:
    """What was sent in the last moment of a controller counts: nobody else may be given the sandbox then."""
    assert kernel.hellos[-1].untouched
    if what == "claim":
        kernel.claim({})
    elif what == "flow":
        file = link_pb2.WriteFile(path="x", size=0)
        kernel.send(flow=link_pb2.FlowFrame(flow=1, open=link_pb2.OpenFlow(write=file)))
    else:
        kernel.send(ping=link_pb2.Ping(id=1))
    for count in (2, 3):  # and it is said again and again
        kernel.hang_up()
        await kernel.until(lambda count=count: len(kernel.hellos) == count)
        assert kernel.hellos[-1].untouched == (what == "ping")


async def test_held_executions_are_those_whose_end_is_not_acknowledged(kernel: Controller) -> None:
    await kernel.run("acknowledged", "1")
    kernel.acknowledges = False
    await kernel.run("ended", "2")
    running = kernel.dispatch("running", "import time; time.sleep(0.5)")
    kernel.dispatch("waiting", "3")
    await kernel.until(lambda: running.started)
    kernel.acknowledges = True
    kernel.drop()
    kernel.forget_uncommitted()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    assert kernel.hellos[-1].held_executions == ["ended", "running", "waiting"]
    assert kernel.hellos[-1].kernel.state == link_pb2.HOST_STATE_READY
    assert kernel.hellos[-1].last_number > kernel.committed - 1
    await kernel.until(lambda: kernel.records["waiting"].ended is not None)
    assert kernel.records["ended"].outcome == "ok"


async def test_garbage_ends_the_connection_and_not_the_agent(kernel: Controller) -> None:
    for number, garbage in enumerate(
        (b"\xff\xff\xff\xff", b"\x00\x00\x00\x04\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n")
    ):
        kernel.send_bytes(garbage)
        await kernel.until(lambda number=number: len(kernel.hellos) == number + 2)
    assert (await kernel.run("a", "print('well')")).text() == "well\n"


async def test_an_agent_without_a_controller_ends_after_its_grace(controller: Controller, agent: AgentProcess) -> None:
    controller.welcome.link_grace_s = 1.0
    controller.drop()
    await controller.until(lambda: len(controller.hellos) == 2)
    await controller.close()
    with pytest.raises(TimeoutError):
        await agent.ended(timeout_s=0.5)
    assert await agent.ended(timeout_s=10) == 0


async def test_an_agent_ends_with_its_controllers_lease_connected_or_not(
    kernel: Controller, agent: AgentProcess
) -> None:
    run = kernel.dispatch("a", "import time\ntime.sleep(60)")
    await kernel.until(lambda: run.started)
    kernel.send(lease=link_pb2.Lease(left_s=60.0))
    kernel.send(lease=link_pb2.Lease(left_s=0.5))  # the last one counts
    assert await agent.ended(timeout_s=30) == 0


async def test_a_renewed_lease_goes_on_and_one_that_a_new_connection_brings(
    kernel: Controller, agent: AgentProcess
) -> None:
    kernel.send(lease=link_pb2.Lease(left_s=2.0))
    kernel.send(lease=link_pb2.Lease(left_s=60.0))
    assert (await kernel.run("a", "import time\ntime.sleep(2.5)\nprint('there')")).text() == "there\n"
    kernel.send(lease=link_pb2.Lease(left_s=1.0))
    await kernel.close()
    assert await agent.ended(timeout_s=30) == 0


async def test_text_that_waited_for_a_slow_reader_goes_out_when_it_reads_again(kernel: Controller) -> None:
    kernel.reading.clear()
    source = """
import time
for n in range(200): print('x' * 9_999)
time.sleep(0.3); print('last'); time.sleep(60)
"""
    run = kernel.dispatch("a", source)
    await asyncio.sleep(2)  # the socket is full, the cell has written its last and sleeps
    kernel.reading.set()
    await kernel.until(lambda: run.text().endswith("last\n"), timeout_s=10)
    assert run.ended is None
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)
