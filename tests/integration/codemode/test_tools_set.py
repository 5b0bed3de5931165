"""Sets of tools: what is wrong with some costs the others nothing, and the client has its say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from tests.integration.codemode.tool_sets import opened, stored

from cellyard.codemode.errors import (
    ToolCallError,
    ToolDefinitionError,
    ToolNotFoundError,
    ToolRefusedError,
)
from cellyard.codemode.tools import ToolCall, ToolSet

ECHO = """
name: echo
description: says it again
tags: [text]
end_of_options: false
schema:
  positional:
    - {name: words, type: array, required: true}
recipes:
  hello: {preset: {words: [hello]}}
"""


def said(*words: str) -> ToolCall:
    return ToolCall("echo", None, {"words": list(words)}, "notebook", "execution")


async def test_what_there_is_is_told() -> None:
    async with opened(ECHO, "name: 'true'") as tools:
        assert await tools.names() == {"echo": ["hello"], "true": []}
        told = await tools.list()
        assert [(each["name"], each["description"], each["tags"]) for each in told] == [
            ("echo", "says it again", ["text"]),
            ("true", "", []),
        ]
        assert await tools.call(ToolCall("echo", "hello")) == "hello\n"


async def test_bad_definitions_are_problems_and_all_others_are_there(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(ECHO, "name: bad\nx: 1", "name: [", "name: echo") as tools:
        assert [str(problem) for problem in tools.problems] == [
            "tools/t1.yaml:2: x: no such field",
            "tools/t2.yaml:2: no YAML: while parsing a flow node, did not find expected node content",
            "tools/t3.yaml:1: name: tools/t0.yaml defines a tool echo already, which is the one taken",
        ]
        assert [record.getMessage() for record in caplog.records] == [str(problem) for problem in tools.problems]
        assert await tools.names() == {"bad": None, "echo": ["hello"], "t2": None}
        assert await tools.call(said("a")) == "a\n"
        with pytest.raises(ToolDefinitionError, match=r"tools/t1.yaml:2: x: no such field"):
            await tools.call(ToolCall("bad"))
        with pytest.raises(ToolNotFoundError, match=r"Unknown tool: nothing. Available: echo"):
            await tools.call(ToolCall("nothing"))
        with pytest.raises(AttributeError, match=r"Unknown recipe: echo.nothing. Available: hello"):
            await tools.call(ToolCall("echo", "nothing"))


async def test_a_call_may_be_let_go_seen_and_changed() -> None:
    seen: list[ToolCall] = []

    async def ask(call: ToolCall) -> ToolCall | None:
        seen.append(call)
        if call.args["words"] == ["a"]:
            call.args["words"].append("changed in place, which does not count")
            return None
        return ToolCall(call.tool, None, {"words": ["changed"]}, call.notebook_id, call.execution_id)

    async with opened(ECHO, on_tool_call=ask) as tools:
        assert await tools.call(said("a")) == "a\n"
        assert await tools.call(said("b")) == "changed\n"
        with pytest.raises(ToolCallError, match="has no parameter 'word'"):
            await tools.call(ToolCall("echo", None, {"word": 1}))
    assert len(seen) == 2
    assert (seen[0].tool, seen[0].recipe, seen[0].notebook_id, seen[0].execution_id) == (
        "echo", None, "notebook", "execution",
    )  # fmt: skip


async def test_what_is_changed_is_checked_again() -> None:
    async with opened(ECHO, on_tool_call=lambda call: ToolCall("echo", None, {"words": ["-n"]})) as tools:
        with pytest.raises(ToolCallError, match="begins with -"):
            await tools.call(ToolCall("echo", None, {"words": ["a"]}))
    async with opened(ECHO, on_tool_call=lambda call: ToolCall("echo", "nothing")) as tools:
        with pytest.raises(ToolNotFoundError):
            await tools.call(ToolCall("echo", "hello"))


@pytest.mark.parametrize(
    ("error", "says"),
    [(PermissionError("not today"), "not today"), (ToolRefusedError("never"), "never"), (KeyError(), "KeyError")],
)
async def test_what_a_callback_raises_refuses(error: Exception, says: str) -> None:
    def refuse(call: ToolCall) -> None:
        raise error

    async with opened(ECHO, on_tool_call=refuse) as tools:
        with pytest.raises(ToolRefusedError) as caught:
            await tools.call(said("a"))
    assert caught.value.message == says


@pytest.mark.parametrize(
    "answer", [True, "yes", {"words": []}, ToolCall("other"), ToolCall("echo", None, {}, "another notebook")]
)
async def test_any_other_answer_is_an_error(answer: object) -> None:
    async with opened(ECHO, on_tool_call=lambda call: answer) as tools:  # type: ignore[arg-type,return-value]
        with pytest.raises(ToolCallError, match="on_tool_call"):
            await tools.call(said("a"))


async def test_a_callback_that_blocks_holds_up_nobody_else() -> None:
    answered = threading.Event()

    def ask(call: ToolCall) -> None:
        if call.args["words"] == ["asks"]:
            answered.wait()

    async with opened(ECHO, on_tool_call=ask) as tools:
        waiting = asyncio.create_task(tools.call(said("asks")))
        assert await tools.call(said("other")) == "other\n"
        assert not waiting.done()
        answered.set()
        assert await waiting == "asks\n"


async def test_a_set_is_opened_by_its_first_use_and_closed_more_than_once() -> None:
    tools = ToolSet([stored(ECHO)])
    assert await asyncio.gather(tools.names(), tools.names()) == [{"echo": ["hello"]}] * 2
    await asyncio.gather(tools.close(), tools.close())
    await tools.close()
    never_used = ToolSet([stored(ECHO)])
    await never_used.close()


def test_nothing_heavy_is_imported_before_a_set_starts() -> None:
    program = (
        "import sys, cellyard.codemode.tools\n"
        "print([name for name in ('yaml', 'pydantic', 'httpx', 'mcp') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_without_the_extra_a_set_says_how_to_get_it() -> None:
    program = """
import asyncio, sys
sys.modules["yaml"] = None
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools import ToolSet
from cellyard.errors import CapabilityUnavailable
try:
    asyncio.run(ToolSet([StoredTool("t", b"name: t", "t.yaml")]).start())
except CapabilityUnavailable as failure:
    print(failure)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "pip install 'cellyard[codemode]'" in said
