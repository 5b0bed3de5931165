"""A model's program starts `cellyard mcp` and speaks to it over stdio; real controller, real containers."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mcp import ClientSession, types

from cellyard import AsyncClient, AsyncSession, SandboxInfo
from tests.controller_process import Process
from tests.e2e.mcp.clients import WITHIN_S, arguments, call, data, refused, shown, stdio

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2])
plt.show()
"""
RICH = """
from IPython.display import HTML, JSON, Markdown, SVG, display
display(Markdown("**bold**"), HTML("<b>only</b>"), JSON({"a": [1]}), SVG("<svg xmlns='http://www.w3.org/2000/svg'/>"))
import pandas
pandas.DataFrame({"a": [1, 2]})
"""


async def test_code_runs_in_the_servers_own_notebook_whose_kernel_ends_with_it(shared_controller: Process) -> None:
    async with AsyncClient(shared_controller.endpoint) as client:
        watching = client.watch_sandboxes()
        async with stdio(shared_controller) as model:
            own = str((await data(model, "list_notebooks"))["own_notebook_id"])
            assert own not in [each.notebook_id for each in await client.list_notebooks()]  # made at the first run
            await _used_as_a_model_would(model, own)
            assert own in [each["notebook_id"] for each in (await data(model, "list_sessions"))["sessions"]]
            await _until(watching, own, "claimed")
        await _until(watching, own, "ended")
        # The work outlives the server: cells and outputs are at the controller.
        assert len(await client.list_executions(own)) == 5


async def _used_as_a_model_would(model: ClientSession, own: str) -> None:
    first = await call(model, "run_code", code="x = 20\nprint('so')\nx + 1")
    assert shown(first) == "so\n21\n"
    assert first.meta is not None
    assert (first.meta["cellyard/notebook_id"], first.meta["cellyard/status"]) == (own, "succeeded")
    assert shown(await call(model, "run_code", code="x * 2")) == "40\n"

    error = shown(await call(model, "run_code", code="1 / 0"))
    assert "ZeroDivisionError: division by zero" in error
    assert "\x1b" not in error

    figure = await call(model, "run_code", code=FIGURE)
    (image,) = [block for block in figure.content if isinstance(block, types.ImageContent)]
    assert image.mimeType == "image/png"
    assert base64.b64decode(image.data).startswith(b"\x89PNG")
    assert shown(figure).startswith("[image 1: image/png")

    rich = shown(await call(model, "run_code", code=RICH))
    for expected in ("**bold**", "<b>only</b>", '{"a": [1]}', "<svg", "   a\n0  1\n1  2\n"):
        assert expected in rich
    assert "<table" not in rich  # the plain text of a frame says the same


async def _until(watching: AsyncIterator[SandboxInfo], notebook_id: str, state: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        async for sandbox in watching:
            if sandbox.notebook_id == notebook_id and sandbox.state == state:
                return


async def test_long_output_is_cut_in_the_middle_and_can_be_read_whole(shared_controller: Process) -> None:
    expected = "".join(f"line {number}\n" for number in range(1000))
    async with stdio(shared_controller, "--max-chars", "3000") as model:
        result = await call(model, "run_code", code="for n in range(1000): print('line', n)")
        text = shown(result)
        assert len(text) < 3300
        assert text.startswith(expected[:1500])
        assert text.endswith(expected[-1500:])
        assert result.meta is not None
        execution_id = result.meta["cellyard/execution_id"]
        assert f'read_output with execution_id="{execution_id}"' in text
        assert "offset=1500 reads on" in text

        whole = ""
        while len(whole) < len(expected):
            page = shown(await call(model, "read_output", execution_id=execution_id, offset=len(whole)))
            assert len(page) <= 3000
            whole += page
        assert whole == expected
        assert "the end" in str(await call(model, "read_output", execution_id=execution_id, offset=10**12))
        assert "has shown 0 images" in await refused(model, "read_output", execution_id=execution_id, image=1)


async def test_cells_are_made_edited_moved_run_and_deleted(shared_controller: Process) -> None:
    async with stdio(shared_controller, "--notebook", "cells") as model:
        first = (await data(model, "create_cell", source="a = 'one'\nprint(a)"))["cell_id"]
        second = (await data(model, "create_cell", source="# Title", cell_type="markdown", index=0))["cell_id"]
        await call(model, "move_cell", cell_id=second, after=first)
        cell = await data(model, "get_cell", cell_id=first)
        edited = await data(model, "edit_cell", cell_id=first, source="print('two')", if_version=cell["version"])
        assert edited["version"] != cell["version"]
        said = await refused(model, "edit_cell", cell_id=first, source="x", if_version=cell["version"])
        assert said.startswith("CellChanged: ")

        ran = await call(model, "run_cell", cell_id=first)
        assert shown(ran) == "two\n"
        listed = await data(model, "list_cells")
        assert [each["id"] for each in listed["cells"]] == [first, second]
        assert ran.meta is not None
        assert listed["cells"][0]["execution_id"] == ran.meta["cellyard/execution_id"]
        assert (await data(model, "list_cells", limit=1))["next_start"] == 1
        assert (await refused(model, "run_cell", cell_id=second)).startswith("InvalidRequest: ")

        await call(model, "delete_cell", cell_id=first)
        assert (await refused(model, "get_cell", cell_id=first)).startswith("CellNotFound: ")
        # Looking at what is not there makes nothing.
        assert (await refused(model, "list_cells", notebook_id="nobody's")).startswith("NotebookNotFound: ")


async def test_files_go_in_and_out_as_text_bytes_and_images(shared_controller: Process) -> None:
    async with stdio(shared_controller, "--max-chars", "1000") as model:
        assert (await refused(model, "list_files")).startswith("NoKernel: ")
        await call(model, "write_file", path="a/text", content="é" * 1500)
        assert shown(await call(model, "run_code", code="len(open('a/text').read())")) == "1500\n"
        begin = await call(model, "read_file", path="a/text")
        assert shown(begin) == "é" * 1000
        assert "go on with offset=1000" in str(begin.content[-1])
        assert shown(await call(model, "read_file", path="a/text", offset=1000)) == "é" * 500

        await call(
            model, "write_file", path="a/bytes", content=base64.b64encode(b"\xff\x00").decode(), encoding="base64"
        )
        assert base64.b64decode(shown(await call(model, "read_file", path="a/bytes", encoding="base64"))) == b"\xff\x00"
        assert "is no UTF-8 text" in await refused(model, "read_file", path="a/bytes")
        assert "is no PNG" in await refused(model, "read_file", path="a/bytes", encoding="image")
        assert "is no base64" in await refused(model, "write_file", path="x", content="?", encoding="base64")

        await call(model, "run_code", code=f"{FIGURE}\nplt.savefig('plot.png')")
        (image,) = (await call(model, "read_file", path="plot.png", encoding="image")).content
        assert isinstance(image, types.ImageContent)
        assert base64.b64decode(image.data).startswith(b"\x89PNG")

        await call(model, "remove_file", path="a/text")
        assert [each["path"] for each in (await data(model, "list_files", path="a"))["files"]] == ["a/bytes"]
        assert "does not climb" in await refused(model, "read_file", path="../passwd")


async def test_what_is_wrong_with_a_call_is_said_in_a_sentence_that_names_it(shared_controller: Process) -> None:
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("run_code", {}, "'code' is missing"),
        ("run_code", {"code": 5}, "'code'"),
        ("run_code", {"code": ["1"]}, "a JSON array"),
        ("run_code", {"code": "1", "timeout_s": "5"}, "'timeout_s'"),
        ("run_code", {"code": "1", "timeout_s": 0}, "'timeout_s'"),
        ("run_code", {"code": "1", "notebook_id": {}}, "'notebook_id'"),
        ("run_code", {"code": "1", "notebook_id": ""}, "'notebook_id'"),
        ("run_code", {"code": "1", "cwd": "/"}, "unknown argument 'cwd'"),
        ("read_output", {"execution_id": "e", "offset": -1}, "'offset'"),
        ("read_output", {"execution_id": "no-such"}, "ExecutionNotFound: "),
        ("create_cell", {"source": "", "cell_type": "html"}, "'cell_type'"),
        ("install_packages", {"requirements": "polars"}, "'requirements'"),
        ("install_packages", {"requirements": [1]}, "'requirements.0'"),
        ("interrupt", {}, "NoKernel: "),
        ("no_such_tool", {}, "there is no tool 'no_such_tool'"),
    ]
    async with stdio(shared_controller) as model:
        for name, given, expected in wrong:
            said = await refused(model, name, **given)
            assert expected in said
            assert "Traceback" not in said
        assert shown(await call(model, "run_code", code="'still here'")) == "'still here'\n"

        tools = {tool.name: tool for tool in (await model.list_tools()).tools}
        for tool in tools.values():
            assert tool.description
            assert tool.annotations is not None
            assert all(
                each.get("description") or each.get("enum") or "anyOf" in each or "const" in each
                for each in tool.inputSchema["properties"].values()
            )
        assert tools["run_code"].inputSchema["required"] == ["code"]
        read_only = {name for name, tool in tools.items() if tool.annotations and tool.annotations.readOnlyHint}
        assert {"read_output", "list_cells", "read_file"} <= read_only
        assert not read_only & {"run_code", "edit_cell", "write_file", "stop_session"}


async def test_progress_is_told_and_a_cancelled_request_interrupts_the_code(shared_controller: Process) -> None:
    runs = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        if message == "now":
            runs.set()

    async with stdio(shared_controller, "--notebook", "cancelled") as model:
        # The library's client does not tell the number of a request, and counts them.
        number = model._request_id
        code = "print('now')\nimport time\ntime.sleep(600)"
        running = asyncio.create_task(model.call_tool("run_code", {"code": code}, progress_callback=progress))
        async with asyncio.timeout(WITHIN_S):
            await runs.wait()
        params = types.CancelledNotificationParams(requestId=number)
        await model.send_notification(types.ClientNotification(types.CancelledNotification(params=params)))
        with pytest.raises(Exception, match="cancelled"):
            await running
        (execution,) = (await data(model, "list_executions"))["executions"]
        async with AsyncSession("cancelled", endpoint=shared_controller.endpoint) as session:
            result = await session.wait(execution["execution_id"], WITHIN_S)
            assert result.end == "interrupted"
        assert shown(await call(model, "run_code", code="'the kernel is as before', time")).startswith("('the kernel")


async def test_code_that_runs_too_long_is_interrupted_and_its_output_kept(shared_controller: Process) -> None:
    async with stdio(shared_controller) as model:
        result = await model.call_tool(
            "run_code", {"code": "print('begun')\nimport time\ntime.sleep(600)", "timeout_s": 0.5}
        )
        assert result.isError
        assert shown(result).startswith("begun\n")
        assert "timed out after 0.5 s" in str(result.content[-1])
        died = await model.call_tool("run_code", {"code": "import os\nos._exit(3)"})
        assert died.isError
        assert "KernelDied" in shown(died)
        await call(model, "run_code", code="kept = 1")
        await call(model, "restart_kernel")
        assert "NameError" in shown(await call(model, "run_code", code="kept"))
        await call(model, "stop_session")
        own = (await data(model, "list_notebooks"))["own_notebook_id"]
        assert own not in [each["notebook_id"] for each in (await data(model, "list_sessions"))["sessions"]]


async def test_a_named_notebook_is_shared_with_whoever_else_uses_it(shared_controller: Process) -> None:
    async with AsyncSession("shared", endpoint=shared_controller.endpoint) as person:
        await person.run("x = 'a person'")
        async with stdio(shared_controller) as model:
            assert shown(await call(model, "run_code", code="x", notebook_id="shared")) == "'a person'\n"
            assert len((await data(model, "list_cells", notebook_id="shared"))["cells"]) == 2
        # The server has ended, and the kernel goes on for whoever is still there.
        assert (await person.run("x")).value == "a person"


class Raw:
    """A client that sends bytes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._stdin, self.stdout = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, controller: Process) -> Raw:
        """A server, greeted."""
        pipe = asyncio.subprocess.PIPE
        raw = cls(await asyncio.create_subprocess_exec(*arguments(controller), stdin=pipe, stdout=pipe))
        client = {"name": "raw", "version": "1"}
        hello = {"protocolVersion": types.LATEST_PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client}
        answer = await raw.ask(json.dumps(_request(0, "initialize", hello)).encode())
        assert answer["result"]["serverInfo"]["name"] == "cellyard"
        raw.send(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
        return raw

    def send(self, line: bytes) -> None:
        self._stdin.write(line + b"\n")

    async def ask(self, line: bytes) -> dict[str, Any]:
        """Sends a line; what comes next."""
        self.send(line)
        async with asyncio.timeout(WITHIN_S):
            answer: dict[str, Any] = json.loads(await self.stdout.readline())
            return answer


def _request(number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


async def test_lines_that_are_no_messages_are_answered_and_the_server_goes_on(shared_controller: Process) -> None:
    raw = await Raw.start(shared_controller)
    raw.send(b"")  # nothing is nothing
    no_object = _request(9, "tools/call", {"name": "run_code", "arguments": []})
    for line, code, answered in (
        (b"no json", types.PARSE_ERROR, None),
        (b"\xff\xfe{", types.PARSE_ERROR, None),
        (b"[" * 100_000, types.PARSE_ERROR, None),
        (b"[]", types.INVALID_REQUEST, None),
        (b'{"jsonrpc": "2.0", "id": {}}', types.INVALID_REQUEST, None),
        (b'{"jsonrpc": "1.0", "id": 7, "method": "tools/list"}', types.INVALID_REQUEST, 7),
        (b'{"jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": {"x": "\\ud800"}}', types.INVALID_REQUEST, 8),
        (json.dumps(no_object).encode(), types.INVALID_PARAMS, 9),
        (json.dumps(_request(10, "no/such", {})).encode(), types.INVALID_PARAMS, 10),
    ):
        answer = await raw.ask(line)
        assert (answer["error"]["code"], answer["id"]) == (code, answered), line[:80]
    answer = await raw.ask(json.dumps(_request(11, "tools/list", {})).encode())
    assert len(answer["result"]["tools"]) == 20
    raw.process.terminate()
    async with asyncio.timeout(WITHIN_S):
        assert await raw.process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_server_though_its_client_says_nothing(
    shared_controller: Process, number: signal.Signals
) -> None:
    raw = await Raw.start(shared_controller)
    raw.process.send_signal(number)
    async with asyncio.timeout(WITHIN_S):
        assert await raw.process.wait() == 0
        assert await raw.stdout.read() == b""


async def test_variables_are_there_after_the_controller_was_killed(controller: Process) -> None:
    async with stdio(controller) as model:
        await call(model, "run_code", code="x = 41")
        controller.kill()
        controller.start()
        assert shown(await call(model, "run_code", code="x + 1")) == "42\n"
