"""Widgets, and other code that talks with front ends."""

from __future__ import annotations

import json
from typing import Any

from tests.integration.agent.controller import Controller, Record

from cellyard_proto.v1 import outputs_pb2

VIEW = "application/vnd.jupyter.widget-view+json"


def message(comm_id: str, data: dict[str, Any], buffers: tuple[bytes, ...] = ()) -> outputs_pb2.Comm:
    comm_message = outputs_pb2.CommMessage(data_json=json.dumps(data))
    return outputs_pb2.Comm(comm_id=comm_id, message=comm_message, buffers=buffers)


def update(comm_id: str, **state: Any) -> outputs_pb2.Comm:
    return message(comm_id, {"method": "update", "state": state, "buffer_paths": []})


def models(run: Record) -> dict[str, dict[str, Any]]:
    """The states of the widgets that a cell has opened."""
    opened = [comm for comm in run.comms if comm.HasField("open")]
    assert {comm.open.target_name for comm in opened} <= {"jupyter.widget"}
    return {comm.comm_id: json.loads(comm.open.data_json)["state"] for comm in opened}


async def test_a_widget_shows_itself_and_hears_its_front_end(kernel: Controller) -> None:
    run = await kernel.run("a", "import ipywidgets as w\ns = w.IntSlider(3)\ndisplay(s)")
    assert run.outcome == "ok"
    assert run.text("stderr") == ""
    shown = [output["data"][VIEW] for output in run.outputs if VIEW in output.get("data", {})]
    assert len(shown) == 1
    slider = shown[0]["model_id"]
    states = models(run)
    assert len(states) == 3, "the slider, its layout and its style"
    assert states[slider]["_model_name"] == "IntSliderModel"
    assert states[slider]["value"] == 3
    opened = next(comm for comm in run.comms if comm.comm_id == slider)
    assert json.loads(opened.open.metadata_json)["version"].startswith("2.")

    await kernel.run("b", "s.observe(lambda change: print('now', change.new), 'value')")
    kernel.send(comm=update(slider, value=7))
    await kernel.until(lambda: run.text() == "now 7\n")
    assert (await kernel.run("c", "s.value")).value == outputs_pb2.Value(json="7")

    changed = await kernel.run("d", "s.value = 9\ns.close()")
    data = [json.loads(comm.message.data_json) for comm in changed.comms if comm.HasField("message")]
    assert {"method": "update", "state": {"value": 9}, "buffer_paths": []} in data
    assert [comm.comm_id for comm in changed.comms if comm.HasField("close")][-1] == slider
    assert changed.text() == "now 9\n"


async def test_what_a_front_end_sends_while_a_cell_runs_comes_after_it_or_in_its_await(kernel: Controller) -> None:
    made = await kernel.run("a", "import ipywidgets as w, time, asyncio\ns = w.IntSlider(3)")
    slider = next(id_ for id_, state in models(made).items() if state["_model_name"] == "IntSliderModel")
    run = kernel.dispatch("b", "time.sleep(0.5); s.value")
    await kernel.until(lambda: run.started)
    kernel.send(comm=update(slider, value=5))
    await kernel.until(lambda: run.ended is not None)
    assert run.value == outputs_pb2.Value(json="3")
    waiting = kernel.dispatch("c", "while s.value != 8: await asyncio.sleep(0.01)\nprint('seen'); s.value")
    await kernel.until(lambda: waiting.started)
    kernel.send(comm=update(slider, value=8))
    await kernel.until(lambda: waiting.ended is not None)
    assert waiting.value == outputs_pb2.Value(json="8")
    assert waiting.text() == "seen\n"


async def test_buffers_travel_both_ways_and_front_ends_may_open_comms(kernel: Controller) -> None:
    source = """
import comm
def opened(c, message):
    def heard(message):
        c.send({'got': message['content']['data'], 'sizes': [len(b) for b in message['buffers']]},
               buffers=[bytes(b) * 2 for b in message['buffers']])
    c.on_msg(heard)
    c.send({'open': message['content']['data'], 'metadata': message['metadata']})
comm.get_comm_manager().register_target('echo', opened)
"""
    assert (await kernel.run("a", source)).outcome == "ok"
    opening = outputs_pb2.CommOpen(target_name="echo", data_json='{"x":1}', metadata_json='{"m":2}')
    kernel.send(comm=outputs_pb2.Comm(comm_id="c1", open=opening))
    kernel.send(comm=message("c1", {"y": "ü"}, (b"\x00\xff", b"")))
    await kernel.until(lambda: len(kernel.comms) == 2)
    assert [json.loads(comm.message.data_json) for comm in kernel.comms] == [
        {"open": {"x": 1}, "metadata": {"m": 2}},
        {"got": {"y": "ü"}, "sizes": [2, 0]},
    ]
    assert list(kernel.comms[1].buffers) == [b"\x00\xff\x00\xff", b""]
    for bad in (outputs_pb2.Comm(comm_id="c1"), outputs_pb2.Comm(comm_id="c1", message={"data_json": "[1"})):
        kernel.send(comm=bad)
    kernel.send(comm=message("unknown", {}))
    assert (await kernel.run("b", "1")).outcome == "ok"


async def test_comms_count_against_the_output_of_their_cell(kernel: Controller) -> None:
    kernel.welcome.output_bytes = 100_000
    kernel.drop()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    source = """
from comm import create_comm
c = create_comm(target_name='flood')
for n in range(10): print(n, end=' ', flush=True); c.send({'n': n})
print()
for n in range(1_000): c.send({'text': 'x' * 1_000})
"""
    run = await kernel.run("a", source)
    assert 90 < len(run.comms) < 112, "the small ones, and as many of the large ones as fit"
    assert len([output for output in run.outputs if output.get("name") == "stdout"]) == 1
    assert "truncated" in run.kinds
    following = await kernel.run("b", "c.send({'n': 'again'})")
    assert [json.loads(comm.message.data_json) for comm in following.comms] == [{"n": "again"}]


SEND = {
    "python": """
from cellyard_sandbox import frames
from cellyard_sandbox.python_kernel.connection import frame
def send(kind, content): k.connection.send(frame(kind, k.get_parent()['header']['msg_id'], content))
def send_nonsense(kind): k.connection.send(frames.encode([kind.encode(), b'\\xff', b'no', b'no', b'?']))
""",
    "jupyter": """
def send(kind, content): k.session.send(k.iopub_socket, kind, content, parent=k.get_parent())
def send_nonsense(kind):
    k.iopub_socket.send_multipart([b'<IDS|MSG>', b'', b'{"msg_type":"' + kind.encode() + b'"}', b'{}', b'no', b'no'])
""",
}


async def test_code_that_breaks_its_widgets_breaks_nothing_else(kernel: Controller, kernel_host: str) -> None:
    source = """
for kind in ('comm_open', 'comm_msg', 'comm_close'):
    for content in ({}, {'comm_id': 7}, {'comm_id': 'x', 'data': [1], 'target_name': 3}, {'comm_id': 'x'}):
        send(kind, content)
    send_nonsense(kind)
'well'
"""
    run = await kernel.run("a", "k = get_ipython().kernel" + SEND[kernel_host] + source)
    assert run.value == outputs_pb2.Value(json='"well"')
    assert {comm.comm_id for comm in run.comms} <= {"x"}
