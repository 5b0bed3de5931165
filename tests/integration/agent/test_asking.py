"""Code that asks for input, and what is asked of the kernel beside its cells."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.integration.agent.controller import Controller

from cellyard_proto.v1 import calls_pb2, history_pb2, link_pb2


def complete(code: str, cursor: int) -> dict[str, Any]:
    return {"complete": link_pb2.AskComplete(code=code, cursor=cursor)}


def inspect(code: str, cursor: int, detail_level: int = 0) -> dict[str, Any]:
    return {"inspect": link_pb2.AskInspect(code=code, cursor=cursor, detail_level=detail_level)}


def history(limit: int) -> dict[str, Any]:
    return {"history": link_pb2.AskHistory(limit=limit)}


async def test_a_question_is_answered_with_a_line(kernel: Controller) -> None:
    source = "print('first'); name = input('who? '); import getpass; print(name, getpass.getpass('secret: '))"
    run = kernel.dispatch("a", source, allow_stdin=True)
    question = await kernel.question(run)
    assert (question.prompt, question.password) == ("who? ", False)
    await kernel.until(lambda: run.text() == "first\n")  # what was printed before needs no answer to come
    kernel.answer(question.call_id, text="Zoë")
    kernel.answer(question.call_id, text="somebody else")
    secret = await kernel.question(run, 2)
    assert (secret.prompt, secret.password) == ("secret: ", True)
    kernel.answer(secret.call_id, text="")
    await kernel.until(lambda: run.ended is not None)
    assert run.outcome == "ok"
    assert run.text() == "first\nZoë \n"


@pytest.mark.parametrize(
    "answer",
    [{"unavailable": "its client has gone"}, {"error": calls_pb2.CallError(name="ValueError", message="no")}],
    ids=["unavailable", "error"],
)
async def test_a_question_that_nobody_answers_is_the_end_of_the_input(
    kernel: Controller, answer: dict[str, Any]
) -> None:
    run = kernel.dispatch("a", "input()", allow_stdin=True)
    kernel.answer((await kernel.question(run)).call_id, **answer)
    await kernel.until(lambda: run.ended is not None)
    assert run.error is not None
    assert run.error.ename == "EOFError"


async def test_a_cell_that_may_not_ask_is_told_at_once(kernel: Controller) -> None:
    run = await kernel.run("a", "input('who? ')")
    assert run.error is not None
    assert run.error.ename == "StdinNotImplementedError"
    assert run.questions == []


@pytest.mark.parametrize("ask", ["input('? ')", "import getpass; getpass.getpass()", "await asyncio.sleep(0); input()"])
async def test_an_interrupt_ends_the_wait_for_input(kernel: Controller, ask: str) -> None:
    run = kernel.dispatch("a", f"import asyncio\n{ask}", allow_stdin=True)
    question = await kernel.question(run)
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)
    assert run.end.interrupted_by == "interrupt"
    assert run.error is not None
    assert run.error.ename == "KeyboardInterrupt"
    following = kernel.dispatch("b", "input()", allow_stdin=True)
    kernel.answer(question.call_id, text="too late")
    kernel.answer((await kernel.question(following)).call_id, text="in time")
    await kernel.until(lambda: following.ended is not None)
    assert following.value is not None
    assert following.value.json == '"in time"'


async def test_a_cell_that_asks_too_long_times_out(kernel: Controller) -> None:
    run = await kernel.run("a", "input()", timeout_s=0.5, allow_stdin=True)
    assert run.end.interrupted_by == "timeout"
    assert len(run.questions) == 1


async def test_a_question_outlives_the_controller(kernel: Controller) -> None:
    run = kernel.dispatch("a", "input()", allow_stdin=True)
    question = await kernel.question(run)
    await kernel.close()
    await kernel.listen()
    await kernel.until(lambda: len(kernel.hellos) == 2)
    assert [(call.execution_id, call.call_id) for call in kernel.hellos[-1].open_calls] == [("a", question.call_id)]
    kernel.answer(question.call_id, text="still here")
    await kernel.until(lambda: run.ended is not None)
    assert run.value is not None
    assert run.value.json == '"still here"'


async def test_names_are_completed_and_inspected(kernel: Controller) -> None:
    await kernel.run("a", "größe = 7\ndef greet(name):\n    'Says hello.'\n    return f'hello {name}'")
    code = "'🐈' + größ + 1"
    error, completed = await kernel.ask(**complete(code, 10))
    assert error == ""
    assert "größe" in completed["matches"]
    assert (completed["cursor_start"], completed["cursor_end"]) == (6, 10), "in Unicode code points"
    error, inspected = await kernel.ask(**inspect("greet", 5))
    assert error == ""
    assert inspected["found"] is True
    assert "Says hello." in inspected["data"]["text/plain"]
    assert "Source" not in inspected["data"]["text/plain"]
    _, detailed = await kernel.ask(**inspect("greet", 5, detail_level=1))
    assert "Source" in detailed["data"]["text/plain"]
    _, unknown = await kernel.ask(**inspect("nobody_knows", 99))
    assert (unknown["found"], unknown["data"]) == (False, {})


async def test_objects_that_raise_or_hang_do_not_keep_the_kernel(kernel: Controller) -> None:
    source = """
class Raises:
    def __repr__(self): raise SystemError('no')
class Hangs:
    def __repr__(self):
        while True: pass
raises, hangs = Raises(), Hangs()
from cellyard_sandbox import asked; asked.ASKED_S = 1.0  # so that the test need not wait
"""
    await kernel.run("a", source)
    error, answered = await kernel.ask(**inspect("raises", 6))
    assert answered.get("status") == "ok" or "SystemError" in error
    error, answered = await kernel.ask(**inspect("hangs", 5))
    assert answered.get("status") == "ok" or "TimeoutError" in error, "it was asked, and did not hang"
    hung = await kernel.run("b", "try: repr(hangs)\nexcept BaseException as e: print(type(e))", timeout_s=0.5)
    assert "KeyboardInterrupt" in hung.text()


async def test_the_history_is_that_of_this_kernel(kernel: Controller) -> None:
    assert (await kernel.ask(**history(10)))[1]["history"] == []
    sources = ["x = 1", "1/0", "%time x", "print('ü')"]
    for number, source in enumerate(sources):
        await kernel.run(f"e{number}", source)
    entries = [[0, number, source] for number, source in enumerate(sources, 1)]
    for limit in (2, 4, 5, 10_000, 0):
        error, answered = await kernel.ask(**history(limit))
        assert (error, answered["history"]) == ("", entries[-limit:])
    await kernel.run("large", "'" + "x" * 700_000 + "';")
    await kernel.run("larger", "'" + "y" * 700_000 + "';")
    _, bounded = await kernel.ask(**history(10))
    assert [entry[1] for entry in bounded["history"]] == [6], "the newest, as far as an answer may be long"
    await kernel.restart()
    assert (await kernel.ask(**history(10)))[1]["history"] == []


async def test_a_kernel_that_is_busy_says_so_and_answers_when_it_is_not(kernel: Controller) -> None:
    run = kernel.dispatch("a", "import time; time.sleep(1); slept = 1")
    kernel.dispatch("b", "time.sleep(1)")
    await kernel.until(lambda: run.started)
    assert await kernel.ask(within_s=0.1, **complete("sle", 3)) == ("busy", {})
    error, completed = await kernel.ask(within_s=30, **complete("sle", 3))
    assert error == ""
    assert completed["matches"] == ["slept"]
    assert kernel.record("b").ended is None, "it was asked before the next cell"


async def test_without_a_kernel_nothing_can_be_asked(kernel: Controller) -> None:
    run = kernel.dispatch("a", "import os, time; time.sleep(0.3); os._exit(1)")
    await kernel.until(lambda: run.started)
    while_it_dies = asyncio.create_task(kernel.ask(**complete("x", 1)))
    await kernel.until(lambda: run.ended is not None)
    assert (await while_it_dies)[0] == "no kernel"
    assert (await kernel.ask(**complete("x", 1)))[0] == "no kernel"
    assert (await kernel.ask())[0] == "no kernel"
    await kernel.restart()
    assert (await kernel.ask())[0] == "not a question"


async def test_a_silent_run_is_neither_counted_nor_shows_its_value(kernel: Controller) -> None:
    await kernel.run("a", "1")
    silent = await kernel.run("b", "x = 6\nprint('said')\nx * 7", silent=True)
    assert (silent.outcome, silent.text(), silent.value) == ("ok", "said\n", None)
    uncounted = await kernel.run("c", "x * 7", store_history=False)
    assert uncounted.value is not None
    assert uncounted.value.json == "42"
    counted = await kernel.run("d", "x")
    assert counted.end.execution_count == 2
    _, ran = await kernel.ask(**history(10))
    assert [entry[2] for entry in ran["history"]] == ["1", "x"]
    failed = await kernel.run("e", "1/0", silent=True)
    assert failed.outcome == "error"


async def test_an_end_brings_along_what_was_asked_for(kernel: Controller) -> None:
    asked = await kernel.run("a", "x = 6", user_expressions={"y": "x * 7", "bad": "1/0"})
    told = json.loads(asked.end.reply_json)["user_expressions"]
    assert told["y"]["data"] == {"text/plain": "42"}
    assert told["bad"]["ename"] == "ZeroDivisionError"
    paged = await kernel.run("b", "print?", payload=True)
    (payload,) = json.loads(paged.end.reply_json)["payload"]
    assert payload["source"] == "page"
    assert "Prints the values" in payload["data"]["text/plain"]
    assert not paged.outputs
    proposed = await kernel.run("c", "get_ipython().set_next_input('next')", payload=True)
    assert json.loads(proposed.end.reply_json)["payload"][0]["text"] == "next"
    unasked = await kernel.run("d", "print?")
    assert unasked.end.reply_json == ""
    assert unasked.outputs


async def test_what_the_kernel_is_can_be_asked_while_it_runs_a_cell(kernel: Controller) -> None:
    run = kernel.dispatch("a", "import time\nwhile True: time.sleep(0.01)")
    await kernel.until(lambda: run.started)
    error, told = await kernel.ask(info=link_pb2.AskInfo())
    assert error == ""
    assert told["language_info"]["name"] == "python"
    assert told["language_info"]["file_extension"] == ".py"
    kernel.interrupt("a")
    await kernel.until(lambda: run.ended is not None)


async def test_whether_code_is_complete(kernel: Controller) -> None:
    async def status(code: str) -> tuple[str, str]:
        error, told = await kernel.ask(is_complete=link_pb2.AskIsComplete(code=code))
        assert error == ""
        return told["status"], told.get("indent", "")

    assert await status("1 + 1") == ("complete", "")
    assert await status("def f():") == ("incomplete", "    ")
    assert (await status("x = )"))[0] == "invalid"


async def test_the_history_by_range_and_by_pattern_with_values(kernel: Controller) -> None:
    for number, source in enumerate(["a = 1", "a + 1", "%time a", "a = 1"]):
        await kernel.run(f"h{number}", source)

    async def told(**asked: Any) -> list[Any]:
        error, answer = await kernel.ask(history=link_pb2.AskHistory(**asked))
        assert error == ""
        return [entry[1:] for entry in answer["history"]]

    assert await told(range=history_pb2.HistoryRange(start=2, stop=3)) == [[2, "a + 1"]]
    assert await told(range=history_pb2.HistoryRange(start=-1)) == [[4, "a = 1"]]
    assert await told(range=history_pb2.HistoryRange(start=1, stop=3), output=True) == [
        [1, ["a = 1", None]],
        [2, ["a + 1", "2"]],
    ]
    assert await told(search=history_pb2.HistorySearch(pattern="a ?*")) == [[1, "a = 1"], [2, "a + 1"], [4, "a = 1"]]
    assert await told(search=history_pb2.HistorySearch(pattern="a = *", unique=True)) == [[4, "a = 1"]]
    assert await told(search=history_pb2.HistorySearch(pattern="*"), limit=1) == [[4, "a = 1"]]
    (transformed,) = await told(range=history_pb2.HistoryRange(start=3, stop=4), transformed=True)
    assert "run_line_magic" in transformed[1]
    assert await told(range=history_pb2.HistoryRange(session=-1)) == []
