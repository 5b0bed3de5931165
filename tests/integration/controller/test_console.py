"""What the console serves to who may see it: outputs, large and active ones too, and what changes while it changes."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from cellyard_controller.ids import LOCAL, NotebookId, NotebookRef

from .conftest import Yard
from .console_client import Browser

OK, BAD, NOT_FOUND = 200, 400, 404


@pytest.fixture
async def browser(yard: Yard) -> AsyncIterator[Browser]:
    """The operator at the console of a controller that has nothing yet."""
    await yard.start(http={"listen": "127.0.0.1:0"})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        browser = Browser(yard, session)
        assert (await browser.log_in(browser.operator_token))[0] == OK
        yield browser


def rows(parts: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return list(parts.get(name, {}).get("rows", []))


async def test_what_becomes_of_sandboxes_kernels_and_queues_is_pushed(browser: Browser, yard: Yard) -> None:
    async with browser.stream("overview") as events:
        _, first = await events.next()
        assert rows(first, "sandboxes") == rows(first, "queue") == rows(first, "notebooks") == []
        await browser.run("nb", "gate g")
        await yard.runtime.reached("g")
        held = await events.until(lambda parts: [r for r in rows(parts, "sandboxes") if r["state"] == "claimed"])
        assert (held[0]["notebook_id"], held[0]["tenant"], held[0]["template"]) == ("nb", "local", "default")
        await browser.run("nb", "value 2")
        busy = {"tenant": "local", "notebook_id": "nb", "kernel": "busy", "running": True, "waiting": 1}
        await events.until(lambda parts: busy in rows(parts, "notebooks"))
        yard.runtime.open("g")
        idle = {**busy, "kernel": "idle", "running": False, "waiting": 0}
        await events.until(lambda parts: idle in rows(parts, "notebooks"))
        assert (await browser.call("Kernels.Shutdown", {"notebook_id": "nb"}))[0] == OK
        await events.until(lambda parts: "sandboxes" in parts and not rows(parts, "sandboxes"))


async def test_who_waits_for_room_is_shown_with_what_for(
    yard: Yard,
) -> None:
    await yard.start(http={"listen": "127.0.0.1:0"}, capacity={"sandboxes": 1})
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        browser = Browser(yard, session)
        await browser.log_in(browser.operator_token)
        async with browser.stream("overview") as events:
            await browser.run("first", "gate g")
            await yard.runtime.reached("g")
            await browser.run("second", "value 1")
            waits = await events.until(lambda parts: [r for r in rows(parts, "queue") if r["reason"] == "capacity"])
            assert (waits[0]["notebook_id"], waits[0]["position"]) == ("second", 1)
            assert waits[0]["message"] == "the machine has no room for another sandbox"
            yard.runtime.open("g")


async def test_a_request_that_is_sent_again_is_the_same_execution(browser: Browser) -> None:
    message = {"notebook_id": "nb", "request_id": "r", "source": {"cell_id": "c", "source": "value 1"}}
    first, again = [(await browser.call("Executions.Enqueue", message))[1]["execution_id"] for _ in range(2)]
    assert first == again
    other = {**message, "source": {"cell_id": "c", "source": "value 2"}}
    assert (await browser.call("Executions.Enqueue", other))[0] == BAD


async def test_calls_of_pages_are_counted_like_all_others(browser: Browser, yard: Yard) -> None:
    assert (await browser.call("Notebooks.List", {}))[0] == OK
    assert (await browser.call("Executions.Get", {"notebook_id": "nb", "execution_id": "e"}))[0] == NOT_FOUND
    counted = yard.controller._access.calls
    assert {("Notebooks.List", "ok"), ("Executions.Get", "notebook_not_found")} <= counted.outcomes.read().keys()
    assert counted.open == 0


async def test_a_notebook_is_told_as_it_is_and_then_as_it_becomes(browser: Browser, yard: Yard) -> None:
    await browser.run("nb", "print before")
    async with browser.stream("watch?notebook=nb") as events:
        await events.until(lambda event: "snapshot_end" in event)
        assert "snapshot_begin" in events.seen[0]
        execution = await browser.run("nb", "print live\ngate g\nvalue 3")
        await events.until(lambda event: "live" in json.dumps(event.get("execution_changed", {}).get("event", {})))
        await yard.runtime.reached("g")
        yard.runtime.open("g")
        end = await events.until(lambda event: finished(event, execution))
        assert end["end"] == "EXECUTION_END_SUCCEEDED"


def finished(event: dict[str, Any], execution: str) -> Any:
    changed = event.get("execution_changed", {})
    return changed.get("event", {}).get("finished") if changed.get("execution_id") == execution else None


async def test_code_asks_for_a_line_and_the_page_that_ran_it_answers(browser: Browser) -> None:
    message = {"notebook_id": "nb", "session_id": "page", "answers_input": True}
    cell = {"cell_id": "c", "source": "input who?"}
    _, accepted = await browser.call("Executions.Enqueue", {**message, "source": cell})
    execution = accepted["execution_id"]
    async with browser.stream(f"follow?notebook=nb&execution={execution}&session=page") as events:
        asked = await events.until(lambda event: event.get("input_requested"))
        assert asked["prompt"] == "who?"
        answer = {"notebook_id": "nb", "execution_id": execution, "call_id": asked["call_id"], "text": "Ann"}
        assert (await browser.call("Executions.Answer", answer))[1] == {"accepted": True}
        await events.until(lambda event: "Ann" in json.dumps(event.get("output", {})))
        await events.until(lambda event: event.get("finished"))


async def test_html_is_a_document_of_its_own_with_a_policy_of_its_own(browser: Browser) -> None:
    html = "<b>bold</b><LINK rel=preconnect href=//x.example><script>1</script>"
    large = "<p>" + "x" * 70_000
    execution = await browser.run("nb", f"html {html}\nhtml {large}")
    async with browser.stream(f"follow?notebook=nb&execution={execution}") as events:
        await events.until(lambda event: event.get("finished"))
    frames = [
        event["output"]["display_data"]["data"]["text/html"]["frame"] for event in events.seen if event.get("output")
    ]
    assert len(frames) == 2
    for frame, says in zip(frames, ("<b>bold</b><x-LINK rel=preconnect", large), strict=True):
        code, text, headers = await browser.get(f"/console/frame?notebook=nb&execution={execution}&digest={frame}")
        assert code == OK
        assert says in text
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("sandbox allow-popups")
        assert "allow-scripts" not in policy
        assert "allow-same-origin" not in policy
        assert "default-src 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    for wrong in ("", "sha256:0", f"sha256:{'0' * 64}"):
        code, _, _ = await browser.get(f"/console/frame?notebook=nb&execution={execution}&digest={wrong}")
        assert code == NOT_FOUND
    other = await browser.run("nb", "value 1")
    code, _, _ = await browser.get(f"/console/frame?notebook=nb&execution={other}&digest={frames[0]}")
    assert code == NOT_FOUND, "it is another execution's"


async def test_large_text_is_downloaded_and_never_a_document(browser: Browser) -> None:
    execution = await browser.run("nb", f"print <script>{'x' * 70_000}</script>")
    async with browser.stream(f"follow?notebook=nb&execution={execution}") as events:
        await events.until(lambda event: event.get("finished"))
    _, kept = await browser.call("Executions.Get", {"notebook_id": "nb", "execution_id": execution})
    digest = kept["outputs"][0]["stream"]["blob"]["digest"]
    for mime in ("text/plain", "text/html", "application/javascript", "image/svg", ""):
        code, text, headers = await browser.get(f"/console/blob?notebook=nb&digest={digest}&mime={mime}")
        assert (code, len(text)) == (OK, 70_000 + len("<script></script>\n"))
        assert headers["Content-Type"] == "text/plain; charset=utf-8"
        assert headers["Content-Disposition"].startswith("attachment")
        assert headers["X-Content-Type-Options"] == "nosniff"
    svg = (await browser.get(f"/console/blob?notebook=nb&digest={digest}&mime=image/svg%2Bxml"))[2]
    assert svg["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
    assert (await browser.get(f"/console/blob?notebook=nb&digest={digest}&mime=image/png"))[0] == 409


async def test_markdown_is_rendered_without_html_of_its_own(browser: Browser) -> None:
    text = "# T\n<script>1</script> [a](javascript:alert(1)) ![b](http://x.example/i.png)\n\n|a|\n|-|\n|$x^2$|"
    code, said = await browser.post("markdown", {"text": text})
    assert code == OK
    assert "<h1>T</h1>" in said["html"]
    assert "<script" not in said["html"]
    assert "href" not in said["html"]
    assert "<td>$x^2$</td>" in said["html"]
    nested = await browser.post("markdown", {"text": ">" * 60_000 + "[" * 4_000})
    assert nested[0] == OK
    assert (await browser.post("markdown", {"text": 1}))[0] == BAD


async def test_a_deleted_notebooks_page_is_told_so(browser: Browser, yard: Yard) -> None:
    await browser.run("nb", "value 1")
    async with browser.stream("watch?notebook=nb") as events:
        await events.until(lambda event: "snapshot_end" in event)
        await yard.controller.rooms.delete(NotebookRef(LOCAL, NotebookId("nb")))
        assert await events.over() == "NOTEBOOK_NOT_FOUND"


async def test_pages_that_look_change_nothing(browser: Browser, yard: Yard) -> None:
    assert (await browser.get("/console/watch?notebook=absent"))[0] == NOT_FOUND
    assert (await browser.call("Notebooks.List", {}))[1] == {}
    assert yard.controller.rooms.loaded == 0


async def test_a_command_tells_where_the_console_is_while_there_is_one(browser: Browser, yard: Yard) -> None:
    data = yard.folder / "data"

    async def asked() -> tuple[int, str]:
        command = [sys.executable, "-m", "cellyard_controller", "console", "--json", "--data", str(data)]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
        said, _ = await process.communicate()
        return process.returncode or 0, said.decode()

    code, said = await asked()
    assert code == 0
    assert json.loads(said) == {"url": f"{browser.url}/console/", "token_file": str(data / "http.token")}
    left = (data / "http.address").read_text()
    await yard.stop()
    code, said = await asked()
    assert (code, "serve --http" in said) == (3, True)
    (data / "http.address").write_text(left)
    assert (await asked())[0] == 3, "a controller that crashed leaves its file"
