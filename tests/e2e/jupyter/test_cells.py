"""Cells: their order, what goes wrong with them, what they ask, and what front ends ask beside them."""

from __future__ import annotations

import nbformat
import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from nbclient import NotebookClient

import cellyard
from tests.controller_process import Process
from tests.e2e.jupyter.front_end import FrontEnd, of_kind

pytestmark = pytest.mark.docker


def test_what_a_cell_shows_comes_in_order_between_busy_and_idle(front_end: FrontEnd) -> None:
    ran = front_end.run("import sys\nprint('a')\ndisplay(1)\nprint('b', file=sys.stderr)\n6 * 7")
    kinds = ["status", "execute_input", "stream", "display_data", "stream", "execute_result", "status"]
    assert ran.kinds == kinds
    assert (ran.text, ran.content["status"], ran.content["execution_count"]) == ("42", "ok", 1)
    assert ran.of("execute_input")[0]["execution_count"] == 1


def test_what_is_queued_behind_an_error_is_aborted_and_what_is_asked_is_answered(front_end: FrontEnd) -> None:
    first = front_end.execute("input()", allow_stdin=True)
    front_end.client.get_stdin_msg(timeout=60)
    second, third = front_end.execute("1"), front_end.execute("2", stop_on_error=False)
    asked = front_end.send("complete_request", {"code": "prin", "cursor_pos": 4})
    front_end.reply(front_end.send("kernel_info_request", {}))  # answered at once: the others have come by then
    front_end.manager.interrupt_kernel()
    assert front_end.reply(first)["content"]["ename"] == "KeyboardInterrupt"
    assert front_end.reply(second)["content"]["status"] == "aborted"
    assert front_end.reply(third)["content"]["status"] == "aborted"
    assert "print" in front_end.reply(asked)["content"]["matches"]
    front_end.execute("1/0", stop_on_error=False)
    assert front_end.run("3").text == "3"


def test_the_kernel_is_known_while_a_cell_runs(front_end: FrontEnd) -> None:
    running = front_end.execute("import time\nwhile True: time.sleep(0.01)")
    front_end.heard(of_kind("execute_input", running))
    for channel in ("shell", "control"):
        told = front_end.reply(front_end.send("kernel_info_request", {}, channel=channel), channel)["content"]
        assert told["language_info"]["name"] == "python"
    with zmq.Context() as context, context.socket(zmq.REQ) as heart:
        heart.rcvtimeo, heart.linger = 60_000, 0
        heart.connect(f"tcp://127.0.0.1:{front_end.manager.hb_port}")
        heart.send(b"beat")
        assert heart.recv() == b"beat"
    interrupt = front_end.send("interrupt_request", {}, channel="control")
    assert front_end.reply(interrupt, "control")["content"] == {"status": "ok"}
    assert front_end.reply(running)["content"]["ename"] == "KeyboardInterrupt"
    assert front_end.run("'well'").text == "'well'"


def test_a_question_goes_to_the_front_end_that_runs_the_cell(front_end: FrontEnd) -> None:
    other = FrontEnd(of=front_end)
    try:
        running = front_end.execute(
            "import getpass; print(input('who? '), getpass.getpass('word? '))", allow_stdin=True
        )
        asked = front_end.client.get_stdin_msg(timeout=60)
        assert asked["content"] == {"prompt": "who? ", "password": False}
        assert asked["parent_header"]["msg_id"] == running
        other.client.input("I")  # whom nobody has asked
        front_end.client.input("Zoë")
        assert front_end.client.get_stdin_msg(timeout=60)["content"] == {"prompt": "word? ", "password": True}
        front_end.client.input("x")
        front_end.client.input("nobody has asked for this")
        assert front_end.ended(running).stdout == "Zoë x\n"
        refused = front_end.run("input()")
        assert refused.content["ename"] == "StdinNotImplementedError"
    finally:
        other.close()


def test_two_front_ends_share_a_kernel_and_hear_each_other(front_end: FrontEnd) -> None:
    other = FrontEnd(of=front_end)
    try:
        told = front_end.execute("shared = 'seen'; print(shared)")
        assert other.heard(of_kind("stream", told))["content"]["text"] == "seen\n"
        assert other.run("shared").text == "'seen'"
    finally:
        other.close()


def test_silent_cells_leave_nothing(service: Process, front_end: FrontEnd) -> None:
    notebook_id = f"jupyter-{front_end.manager.kernel_id}"
    front_end.run("x = 1")
    silent = front_end.run("x += 1; x", silent=True, user_expressions={"now": "x"})
    assert silent.kinds == ["status", "status"]
    assert silent.content["user_expressions"]["now"]["data"] == {"text/plain": "2"}
    assert front_end.run("x").content["execution_count"] == 2
    with cellyard.Session(notebook_id, endpoint=service.endpoint) as session:
        session.connect()
        assert [cell.source for cell in session.get_cells()] == ["x = 1", "x"]


def test_a_cell_that_runs_again_is_the_same_cell_of_the_document(service: Process, front_end: FrontEnd) -> None:
    notebook_id = f"jupyter-{front_end.manager.kernel_id}"
    for code in ("a = 1; a", "a = 2; a"):
        front_end.run(code, metadata={"cellId": "first"})
    front_end.run("a", metadata={"cellId": "second"})
    with cellyard.Session(notebook_id, endpoint=service.endpoint) as session:
        session.connect()
        first, second = session.get_cells()
        assert (first.source, second.source) == ("a = 2; a", "a")
        assert first.outputs[0].data == {"text/plain": "2"}
        session.delete_cell(first.id)
    assert front_end.run("a = 3; a", metadata={"cellId": "first"}).text == "3"


def test_displays_are_updated_by_later_cells_and_output_may_come_late(front_end: FrontEnd) -> None:
    shown = front_end.run("h = display('first', display_id='d')")
    assert shown.of("display_data")[0]["transient"] == {"display_id": "d"}
    updated = front_end.run("h.update('second')").of("update_display_data")
    assert [update["transient"]["display_id"] for update in updated] == ["d"]
    assert updated[0]["data"] == {"text/plain": "'second'"}
    source = """
import threading
go = threading.Event()
def late():
    go.wait()
    print('late')
threading.Thread(target=late).start()
"""
    began = front_end.execute(source)
    front_end.ended(began)
    front_end.run("go.set()")
    assert front_end.heard(of_kind("stream", began))["content"]["text"] == "late\n"


def test_code_of_the_wrong_type_is_refused_and_the_kernel_goes_on(front_end: FrontEnd) -> None:
    refused = front_end.reply(front_end.send("execute_request", {"code": 5}))
    assert refused["content"]["ename"] == "InvalidRequest"
    assert front_end.run("1").text == "1"


def test_widgets_of_a_run_are_saved_with_the_notebook(service: Process) -> None:
    source = """
import ipywidgets as w
from IPython.display import display
out = w.Output()
display(out)
with out:
    print('captured')
print('not captured')
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="cellyard-python", timeout=60).execute()
    (state,) = notebook.metadata["widgets"].values()
    (captured,) = [each["state"] for each in state["state"].values() if each["model_name"] == "OutputModel"]
    assert [output["text"] for output in captured["outputs"]] == ["captured\n"]
    shown = [output for output in notebook.cells[0].outputs if output.output_type == "stream"]
    assert [output.text for output in shown] == ["not captured\n"]


def test_a_front_end_moves_a_widget_and_the_code_hears_of_it(front_end: FrontEnd) -> None:
    source = """
import ipywidgets
slider = ipywidgets.IntSlider()
def moved(change):
    print('moved to', change['new'])
    label.value = str(change['new'])
label = ipywidgets.Label()
slider.observe(moved, names='value')
slider
"""
    shown = front_end.run(source)
    kinds = [kind for kind in shown.kinds if kind in ("comm_open", "execute_result")]
    assert kinds[-1] == "execute_result"  # whoever shows the widget knows it by then
    slider = shown.of("execute_result")[0]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert all(message["metadata"]["version"] for message in shown.iopub if message["msg_type"] == "comm_open")
    listed = front_end.reply(front_end.send("comm_info_request", {"target_name": "jupyter.widget"}))["content"]
    assert listed["comms"][slider] == {"target_name": "jupyter.widget"}
    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    front_end.send("comm_msg", {"comm_id": slider, "data": update})
    told = front_end.heard(
        lambda message: message["msg_type"] == "comm_msg" and message["content"]["data"]["state"].get("value") == "7"
    )
    assert told["content"]["data"]["method"] == "update"
    assert front_end.heard(of_kind("stream"))["content"]["text"] == "moved to 7\n"
    assert front_end.run("slider.value").text == "7"


def test_comms_carry_bytes_and_are_opened_from_either_side(front_end: FrontEnd) -> None:
    source = """
import comm
def opened(c, message):
    c.on_msg(lambda message: c.send({'got': message['content']['data']},
                                    buffers=[bytes(b) * 2 for b in message['buffers']]))
comm.get_comm_manager().register_target('echo', opened)
"""
    front_end.run(source)
    front_end.send("comm_open", {"comm_id": "mine", "target_name": "echo", "data": {}})
    front_end.send("comm_msg", {"comm_id": "mine", "data": {"x": 1}}, buffers=[b"\x00\xff"])
    told = front_end.heard(of_kind("comm_msg"))
    assert told["content"] == {"comm_id": "mine", "data": {"got": {"x": 1}}}
    assert [bytes(buffer) for buffer in told["buffers"]] == [b"\x00\xff\x00\xff"]
    front_end.send("comm_close", {"comm_id": "mine", "data": {}})
    assert front_end.reply(front_end.send("comm_info_request", {}))["content"]["comms"] == {}


def test_a_console_joins_by_the_connection_file(front_end: FrontEnd) -> None:
    front_end.run("x = 42")
    console = BlockingKernelClient(connection_file=front_end.manager.connection_file)
    console.load_connection_file()
    console.start_channels()
    try:
        console.wait_for_ready(timeout=60)
        reply = console.execute_interactive("assert x == 42", timeout=60)
        assert reply["content"]["status"] == "ok"
    finally:
        console.stop_channels()
