"""Commands as tools: real processes, and nothing left of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.codemode.tool_sets import gone, next_line, open_descriptors, opened, pid_in

from cellyard.codemode.errors import SessionClosed, ToolCallError, ToolTimeoutError
from cellyard.codemode.tools import ToolCall
from cellyard.codemode.tools.cli import MAX_OUTPUT


def script(text: str, timeout: float = 60) -> str:
    """A tool that runs a shell's script, with the words of a call as $1, ..."""
    return json.dumps(
        {
            "name": "tool",
            "command": ["sh", "-c", text, "sh"],
            "timeout": timeout,
            "schema": {"positional": [{"name": "words", "type": "array"}]},
        }
    )


def said(*words: str) -> ToolCall:
    return ToolCall("tool", None, {"words": list(words)})


async def failure(definition: str, call: ToolCall) -> str:
    async with opened(definition) as tools:
        with pytest.raises(ToolCallError) as caught:
            await tools.call(call)
    return caught.value.message


async def test_what_a_command_writes_is_the_result_as_it_is() -> None:
    async with opened(script("echo hidden >&2; printf '  é\\n\\n'")) as tools:
        assert not tools.problems
        assert await tools.call(said()) == "  é\n\n"


async def test_what_is_not_utf8_comes_as_bytes() -> None:
    async with opened(script("printf 'a\\377\\000b'")) as tools:
        assert await tools.call(said()) == b"a\xff\x00b"


async def test_a_command_has_the_folder_and_environment_of_its_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CY_TEST", "the client's")
    text = "name: tool\ncommand: [sh, -c, 'pwd; echo $CY_TEST; echo $OTHER; cat']\nenv: {OTHER: 'and ${CY_TEST}'}\n"
    async with opened(text) as tools:
        assert await tools.call(ToolCall("tool")) == f"{tmp_path}\nthe client's\nand the client's\n"


async def test_a_command_leads_a_session_and_a_group_of_its_own() -> None:
    program = "import os; print(os.getpid(), os.getsid(0), os.getpgid(0))"
    async with opened(json.dumps({"name": "tool", "command": [sys.executable, "-c", program]})) as tools:
        pid, session, group = (await tools.call(ToolCall("tool"))).split()
    assert pid == session == group


async def test_shells_see_nothing_of_arguments() -> None:
    words = ["$(id)", "`id`", "; id", "a b", "*", "'\"", "\\", "\n", ""]
    async with opened(script('for word in "$@"; do printf "[%s]" "$word"; done')) as tools:
        assert await tools.call(said(*words)) == "".join(f"[{word}]" for word in words)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("echo no luck >&2; exit 3", "Tool 'tool' failed: Command failed: no luck"),
        ("exit 3", "Tool 'tool' failed: Command failed: Exit code 3"),
        ("kill -9 $$", "Tool 'tool' failed: Command failed: killed by signal 9"),
    ],
)
async def test_a_command_that_fails_says_why(text: str, says: str) -> None:
    assert await failure(script(text), said()) == says


async def test_of_a_long_complaint_the_end_is_kept() -> None:
    message = await failure(script("yes complaint | head -c 1000000 >&2; echo the end >&2; exit 1"), said())
    assert message.endswith("\nthe end")
    assert len(message) < 70_000


async def test_a_command_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    call = ToolCall("tool")
    assert await failure("name: tool\ncommand: no-such-program", call) == (
        "Tool 'tool' failed: no-such-program: No such file or directory"
    )
    assert "Permission denied" in await failure(f"name: tool\ncommand: {tmp_path}", call)
    assert "Argument list too long" in await failure(script("true"), said("x" * 200_000))


async def test_ten_mebibytes_are_not_too_much() -> None:
    async with opened(script(f"head -c {MAX_OUTPUT} /dev/zero")) as tools:
        assert await tools.call(said()) == "\0" * MAX_OUTPUT


async def test_who_writes_more_is_ended_at_once(tmp_path: Path) -> None:
    message = await failure(script(f"echo $$ >{tmp_path}/pid; exec yes"), said())
    assert message == "Tool 'tool' failed: it wrote more than 10 MiB, and was ended"
    assert await gone(pid_in(tmp_path / "pid"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("trap '' TERM INT HUP; echo $$ >1; sleep 1000 & echo $! >2; wait", id="ignores signals"),
        pytest.param("echo $$ >1; (sleep 1000 & echo $! >2); sleep 1000", id="leaves orphans"),
        pytest.param("echo $$ >1; sleep 1000 & echo $! >2; exec >&- 2>&-; wait", id="closes its output"),
        pytest.param("echo $$ >1; yes >&2 & echo $! >2; wait", id="complains forever"),
    ],
)
async def test_at_its_time_limit_the_whole_group_is_gone(text: str, tmp_path: Path) -> None:
    pids: list[int | None] = []
    # A busy machine may need longer until the pids are written: without them there is nothing to look for.
    for limit in (1, 5, 20):
        async with opened(script(f"cd {tmp_path}; {text}", limit)) as tools:
            with pytest.raises(ToolTimeoutError, match=f"Tool 'tool' timed out after {limit}s"):
                await tools.call(said())
        pids = [pid_in(tmp_path / "1"), pid_in(tmp_path / "2")]
        if None not in pids:
            break
    for pid in pids:
        assert await gone(pid)


async def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    async with opened(script(f"sleep 1000 & echo $! >{tmp_path}/pid; echo done")) as tools:
        assert await tools.call(said()) == "done\n"
    assert await gone(pid_in(tmp_path / "pid"))


async def test_a_daemon_that_holds_the_output_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    program = f"import os, time; os.setsid(); open('{tmp_path}/pid', 'w').write(str(os.getpid())); time.sleep(1000)"
    # The command ends once the daemon is out of its group, and has told its pid.
    async with opened(script(f'{sys.executable} -c "{program}" & cat {tmp_path}/pid')) as tools:
        pid = int(await tools.call(said()))
    os.kill(pid, signal.SIGKILL)  # out of reach, as is documented
    assert await gone(pid)


async def test_a_caller_that_is_cancelled_ends_the_group_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pids")
    async with opened(script(f"trap '' TERM; sleep 1000 & echo $$ $! >{tmp_path}/pids; wait")) as tools:
        call = asyncio.create_task(tools.call(said()))
        pids = [int(pid) for pid in (await next_line(tmp_path / "pids")).split()]
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not os.path.exists(f"/proc/{pids[0]}")  # noqa: ASYNC240 (reaped, too)
        for pid in pids:
            assert await gone(pid)


async def test_closing_ends_what_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    async with opened(script(f"sleep 1000 & echo $! >{tmp_path}/pid; wait")) as tools:
        call = asyncio.create_task(tools.call(said()))
        pid = int(await next_line(tmp_path / "pid"))
        await tools.close()
        with pytest.raises(SessionClosed, match="Session is closed"):
            await call
        assert await gone(pid)


async def test_many_calls_at_once_mix_nothing_up_and_leave_nothing_open() -> None:
    async with opened(script('echo "$1"; [ "$1" != 7 ]')) as tools:
        await tools.call(said("0"))
        before = open_descriptors()
        results = await asyncio.gather(*(tools.call(said(str(n))) for n in range(30)), return_exceptions=True)
        assert isinstance(results[7], ToolCallError)
        assert [each for n, each in enumerate(results) if n != 7] == [f"{n}\n" for n in range(30) if n != 7]
        assert open_descriptors() <= before


ECHO = """
import argparse, json
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("-f", "--flag", action="store_true")
parser.add_argument("-t", "--text")
parser.add_argument("--items", action="append", default=[])
parser.add_argument("first")
parser.add_argument("second", nargs="?")
print(json.dumps(vars(parser.parse_args())))
"""
# What is left out is read in another way by argparse itself: a second --, and = in front.
VALUE = st.sampled_from(["-", "-f", "--flag", "--items", "-t", "-1", "", "a b", "é"]) | st.text(
    st.characters(exclude_characters="\0=", exclude_categories=["Cs"]), max_size=8
).filter(lambda value: value != "--")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {"first": VALUE},
        optional={"flag": st.booleans(), "text": VALUE, "items": st.lists(VALUE, max_size=3), "second": VALUE},
    )
)
async def test_a_real_program_gets_what_was_given(args: dict[str, Any]) -> None:
    definition = {
        "name": "tool",
        "command": [sys.executable, "-I", "-S", "-X", "utf8", "-c", ECHO],
        "schema": {
            "options": {"flag": {"type": "boolean"}, "text": {"short": "t"}, "items": {"type": "array"}},
            "positional": [{"name": "first"}, {"name": "second"}],
        },
    }
    async with opened(json.dumps(definition)) as tools:
        found = json.loads(await tools.call(ToolCall("tool", None, args)))
    assert found == {"flag": False, "text": None, "items": [], "second": None, **args}
