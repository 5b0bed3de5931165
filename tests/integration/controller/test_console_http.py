"""Who gets at the console and who does not: tokens, names, pages elsewhere, odd paths, slow and huge requests."""

from __future__ import annotations

import asyncio
import io
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cellyard_controller.web import server
from cellyard_controller.web.console import visitors
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard
from .console_client import ASKED, WITHIN, Browser

OK, MOVED, BAD, UNKNOWN, FORBIDDEN, NOT_FOUND, TOO_LARGE, MISDIRECTED, TOO_MANY = (
    200,
    308,
    400,
    401,
    403,
    404,
    413,
    421,
    429,
)
BEHIND_THE_LOGIN = (
    "me",
    "overview",
    "watch?notebook=nb",
    "follow?notebook=nb&execution=e",
    "frame?notebook=nb&execution=e&digest=d",
    "blob?notebook=nb&digest=d",
)
FOREIGN = "http://evil.example"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def served(yard: Yard) -> Stubs:
    return await yard.start(http={"listen": "127.0.0.1:0", "hosts": ("console.example", "other.example:8443")})


@pytest.fixture
async def stranger(yard: Yard, served: Stubs, session: aiohttp.ClientSession) -> Browser:
    """Somebody who has not logged in."""
    return Browser(yard, session)


@pytest.fixture
async def operator(yard: Yard, served: Stubs, session: aiohttp.ClientSession) -> Browser:
    browser = Browser(yard, session)
    assert (await browser.log_in(browser.operator_token))[0] == OK
    return browser


async def tenant(served: Stubs, like: Browser, name: str, **more: Any) -> tuple[Browser, te.CreateTenantResponse]:
    created = await served.tenants.Create(te.CreateTenant(name=name, **more))
    browser = Browser(like.yard, like.session)
    assert (await browser.log_in(created.token))[0] == OK
    return browser, created


async def raw(port: int, content: bytes) -> bytes:
    """What is answered to these bytes."""
    async with asyncio.timeout(WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        said = await reader.read()
        writer.close()
    return said


def request(port: int, path: str, *headers: str, method: str = "GET", host: str | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def audited(browser: Browser, action: str) -> list[dict[str, Any]]:
    """What the audit log says of an action, once all of it is written."""
    await browser.yard.controller._access.audit.flush()
    lines = (browser.yard.folder / "data" / "audit.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["action"] == action]


async def test_who_has_not_logged_in_gets_the_page_and_nothing_else(stranger: Browser) -> None:
    text = (await stranger.get("/console/"))[1]
    assert "<title>Cellyard</title>" in text
    answers = set()
    for cookie in ("", f"cellyard-{stranger.port}=", f"cellyard-{stranger.port}=wrong", "cellyard-1=x; other=y"):
        stranger.cookie = cookie
        for path in BEHIND_THE_LOGIN:
            code, said, _ = await stranger.get(f"/console/{path}")
            answers.add((code, said))
        for path in ("logout", "markdown", "call/Notebooks.List", "call/nothing"):
            code, body = await stranger.post(path, {"message": {}})
            answers.add((code, json.dumps(body)))
    assert answers == {(UNKNOWN, '{"reason": "UNAUTHENTICATED", "message": "authentication failed"}')}


async def test_a_token_is_no_cookie_and_a_cookie_no_token(stranger: Browser, operator: Browser) -> None:
    bearer = {"Authorization": f"Bearer {operator.operator_token}"}
    assert (await stranger.get("/console/me", **bearer))[0] == UNKNOWN
    value = operator.cookie.partition("=")[2]
    assert (await stranger.get("/metrics", Authorization=f"Bearer {value}"))[0] == UNKNOWN
    assert (await stranger.get("/metrics", Cookie=operator.cookie))[0] == UNKNOWN


async def test_the_cookie_is_for_this_console_alone_and_says_nothing(
    stranger: Browser, session: aiohttp.ClientSession
) -> None:
    given = {"token": stranger.operator_token}
    async with session.post(f"{stranger.url}/console/login", json=given, headers=ASKED) as answer:
        cookie, text = answer.headers["Set-Cookie"], await answer.text()
    assert {"HttpOnly", "Path=/console/", "SameSite=Strict"} <= set(cookie.split("; "))
    assert stranger.operator_token not in cookie + text


async def test_behind_a_proxy_that_speaks_https_the_cookie_is_for_https(
    stranger: Browser, session: aiohttp.ClientSession
) -> None:
    headers = {**ASKED, "Host": "console.example", "Origin": "https://console.example"}
    given = {"token": stranger.operator_token}
    async with session.post(f"{stranger.url}/console/login", json=given, headers=headers) as answer:
        assert answer.status == OK
        assert "Secure" in answer.headers["Set-Cookie"].split("; ")


async def test_wrong_tokens_are_noted_and_soon_not_even_looked_at(stranger: Browser) -> None:
    wrong = ["", "wrong", f"{stranger.operator_token}x", "x" * 5000, "cy_0_0"]
    codes = {(await stranger.log_in(each))[0] for each in wrong}
    assert codes == {UNKNOWN}
    assert (await stranger.log_in(stranger.operator_token))[0] == TOO_MANY
    outcomes = [entry["outcome"] for entry in await audited(stranger, "Console.LogIn")]
    assert outcomes == ["unauthenticated"] * 5 + ["too_many_tries"]
    logged = (stranger.yard.folder / "data" / "audit.jsonl").read_text()
    assert "wrong" not in logged


async def test_right_tokens_may_come_as_often_as_they_like(stranger: Browser) -> None:
    for _ in range(visitors.VISITORS_EACH + 5):
        assert (await stranger.log_in(stranger.operator_token))[0] == OK


@pytest.mark.parametrize(
    "token", [None, 1, ["x"], {"a": 1}, "\ud800", "\0"], ids=["none", "number", "list", "object", "surrogate", "nul"]
)
async def test_a_login_with_something_else_than_a_token_is_refused(stranger: Browser, token: Any) -> None:
    assert (await stranger.log_in(token))[0] == UNKNOWN


async def test_a_token_that_is_bound_to_a_certificate_opens_no_console(stranger: Browser, served: Stubs) -> None:
    grant = te.TokenGrant(certificate="client.example")
    created = await served.tenants.Create(te.CreateTenant(name="bound", grant=grant))
    assert (await stranger.log_in(created.token))[0] == UNKNOWN


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "localhost",
        "",
        "127.0.0.1:{port}.evil.example",
        "[::1",
        "console.example:x",
        "other.example",
    ],
)
async def test_called_by_another_name_the_console_does_not_answer(operator: Browser, name: str) -> None:
    host = name.format(port=operator.port)
    for path in ("/console/", "/console/static/app.js", "/console/me", "/console/overview"):
        answer = await raw(operator.port, request(operator.port, path, f"Cookie: {operator.cookie}", host=host or " "))
        assert status(answer) in (MISDIRECTED, BAD), answer[:200]
    login = request(operator.port, "/console/login", "X-Cellyard: 1", "Content-Length: 0", method="POST", host=host)
    assert status(await raw(operator.port, login)) in (MISDIRECTED, BAD)


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1:{port}",
        "LOCALHOST:{port}",
        "[::1]:{port}",
        "console.example",
        "Console.Example:123",
        "other.example:8443",
    ],
)
async def test_called_by_a_name_of_its_own_it_answers(operator: Browser, name: str) -> None:
    host = name.format(port=operator.port)
    assert status(await raw(operator.port, request(operator.port, "/console/", host=host))) == OK


async def test_health_and_metrics_are_answered_whatever_the_name(operator: Browser) -> None:
    assert status(await raw(operator.port, request(operator.port, "/healthz", host="balancer.example"))) == OK
    bearer = f"Authorization: Bearer {operator.operator_token}"
    assert status(await raw(operator.port, request(operator.port, "/metrics", bearer, host="x.example"))) == OK


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**ASKED, "Origin": FOREIGN},
        {**ASKED, "Origin": "null"},
        {**ASKED, "Origin": "http://127.0.0.1:1"},
        {**ASKED, "Sec-Fetch-Site": "cross-site"},
        {**ASKED, "Sec-Fetch-Site": "same-site"},
        {**ASKED, "Sec-Fetch-Site": "none"},
    ],
    ids=["a-form", "foreign", "opaque", "another-port", "cross-site", "same-site", "typed"],
)
async def test_what_a_page_elsewhere_sends_changes_nothing(
    operator: Browser, served: Stubs, headers: dict[str, str]
) -> None:
    message = {"tenant": "", "message": {"notebook_id": "made", "cell_id": "c"}}
    for path in ("call/Notebooks.CreateCell", "logout", "login", "markdown"):
        assert (await operator.post(path, message, headers))[0] == FORBIDDEN, path
    assert (await operator.call("Notebooks.List", {}))[1] == {}, "and it is logged in still"


async def test_what_a_page_elsewhere_asks_for_it_does_not_get(operator: Browser) -> None:
    for path in BEHIND_THE_LOGIN:
        for header in ({"Origin": FOREIGN}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await operator.get(f"/console/{path}", **header))[0] == FORBIDDEN
    code, _, headers = await operator.get("/console/me", Origin=operator.url, **{"Sec-Fetch-Site": "same-origin"})
    assert code == OK
    assert not [name for name in headers if name.lower().startswith("access-control")]


async def test_preflights_are_answered_with_nothing(operator: Browser) -> None:
    asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-cellyard", f"Origin: {FOREIGN}"]
    answer = await raw(operator.port, request(operator.port, "/console/login", *asked, method="OPTIONS"))
    assert status(answer) == 405
    assert b"access-control" not in answer.lower()


PATHS = (
    "/console/static/../../../etc/passwd",
    "/console/static/..%2f..%2ftoken.py",
    "/console/static/%2e%2e/%2e%2e/token.py",
    "/console/static/%2e%2e%2f__init__.py",
    "/console/static//etc/passwd",
    "/console/static/app.js/",
    "/console/static/app.js%00",
    "/console/static/",
    "/console/static/APP.JS",
    "/console/static/..",
    "/console/static/.",
    "//console/",
    "/console//",
    "/console/%2e%2e/http.token",
    "/console/..%5c..%5chttp.token",
    "/Console/",
    "/console/index.html",
    "/console/static/__pycache__",
    "/console/static/app.js;x",
)


@pytest.mark.parametrize("path", PATHS)
async def test_a_path_leads_to_what_it_names_and_to_nothing_else(operator: Browser, path: str) -> None:
    answer = await raw(operator.port, request(operator.port, path, f"Cookie: {operator.cookie}"))
    assert status(answer) == NOT_FOUND, answer[:300]


async def test_pages_carry_a_policy_that_lets_nothing_in(stranger: Browser) -> None:
    static = Path(server.__file__).parent / "static"
    files = [f"static/{file.name}" for file in static.iterdir()]
    for path in ("", *files):
        code, text, headers = await stranger.get(f"/console/{path}")
        assert code == OK, path
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "http://" not in text.replace("http://www.w3.org", ""), "nothing comes from elsewhere"
        assert "innerHTML" not in text
        assert "localStorage" not in text
    page = (static / "index.html").read_text()
    assert "style=" not in page
    assert " on" not in page.replace(" one", "").replace(" only", "")
    assert "<script>" not in page
    assert sum(file.stat().st_size for file in static.iterdir()) < 100_000


async def test_another_tenants_notebook_is_like_none(operator: Browser, served: Stubs) -> None:
    alice, _ = await tenant(served, operator, "alice")
    bob, _ = await tenant(served, operator, "bob")
    execution = await bob.run("secret", "html <b>secret</b>")
    async with bob.stream("watch?notebook=secret") as events:
        digest = await events.until(frame_of)
    asked = {
        "watch": "",
        "follow": f"&execution={execution}",
        "frame": f"&execution={execution}&digest={digest}",
        "blob": f"&digest=sha256:{'0' * 64}",
    }
    for name, more in asked.items():
        for whose in ("", "alice", "bob", "local"):
            theirs = await alice.get(f"/console/{name}?tenant={whose}&notebook=secret{more}")
            nobodys = await alice.get(f"/console/{name}?tenant={whose}&notebook=absent{more}")
            assert theirs[0] == nobodys[0] == NOT_FOUND
            assert theirs[1].replace("secret", "absent") == nobodys[1]
    calls: dict[str, dict[str, Any]] = {
        "Notebooks.SetSource": {"cell_id": "c", "source": "x"},
        "Executions.Get": {"execution_id": execution},
        "Executions.List": {},
        "Kernels.Interrupt": {},
        "Kernels.Shutdown": {},
    }
    for method, message in calls.items():
        for whose in ("", "bob"):
            theirs_ = await alice.call(method, {"notebook_id": "secret", **message}, whose)
            nobodys_ = await alice.call(method, {"notebook_id": "absent", **message}, whose)
            assert theirs_[0] == nobodys_[0] == NOT_FOUND, method
            assert str(theirs_[1]).replace("secret", "absent") == str(nobodys_[1])
    assert (await alice.call("Notebooks.List", {}, "bob"))[0] == NOT_FOUND
    assert (await bob.get(f"/console/frame?notebook=secret&execution={execution}&digest={digest}"))[0] == OK
    assert (await operator.get(f"/console/frame?tenant=bob&notebook=secret&execution={execution}&digest={digest}"))[
        0
    ] == OK
    assert (await operator.call("Notebooks.CreateCell", {"notebook_id": "x", "cell_id": "c"}, "nobody"))[0] == NOT_FOUND


def frame_of(event: Any) -> str:
    """What an HTML output's frame is asked for with."""
    told = json.dumps(event)
    assert '"text": "<b>' not in told, "HTML itself is never told"
    start = told.find('"frame": "')
    return told[start + 10 : start + 81] if start >= 0 else ""


async def test_a_tenant_sees_what_is_its_own_and_the_operator_all(operator: Browser, served: Stubs) -> None:
    alice, _ = await tenant(served, operator, "alice")
    bob, _ = await tenant(served, operator, "bob")
    await bob.run("bobs", "value 1")
    async with operator.stream("overview") as events:
        await events.until(lambda parts: "bobs" in json.dumps(parts.get("sandboxes")))
        await events.until(lambda parts: parts) if "pools" not in events.seen[0] else None
        assert {"pools", "runtimes", "tenants"} <= events.seen[0].keys()
    async with alice.stream("overview") as events:
        _, parts = await events.next()
    assert set(parts) == {"sandboxes", "queue", "notebooks", "tenants"}
    assert [row["tenant"] for row in parts["tenants"]["rows"]] == ["alice"]
    assert "bob" not in json.dumps(parts)


async def test_a_token_that_is_for_looking_does_not_run_anything(operator: Browser, served: Stubs) -> None:
    reader, _ = await tenant(served, operator, "carol", grant=te.TokenGrant(scope="read"))
    code, said = await reader.call(
        "Executions.Enqueue", {"notebook_id": "n", "source": {"cell_id": "c", "source": "1"}}
    )
    assert (code, said["reason"]) == (FORBIDDEN, "PERMISSION_DENIED")
    assert (await reader.call("Notebooks.List", {}))[0] == OK


async def test_a_tenants_rate_holds_for_pages_too(operator: Browser, served: Stubs) -> None:
    hasty, _ = await tenant(served, operator, "dave", quotas={"rate": "1"})
    codes = [(await hasty.call("Notebooks.List", {}))[0] for _ in range(20)]
    assert TOO_MANY in codes


async def test_a_page_is_told_when_its_token_is_revoked(operator: Browser, served: Stubs) -> None:
    alice, _ = await tenant(served, operator, "alice")
    await alice.run("nb", "value 1")
    async with alice.stream("watch?notebook=nb") as watching, alice.stream("overview") as looking:
        await served.tenants.Revoke(te.RevokeTenant(name="alice"))
        assert await watching.over() == await looking.over() == "the token is no longer in force"
    assert (await alice.get("/console/me"))[0] == UNKNOWN
    assert (await operator.get("/console/me"))[0] == OK


async def test_replacing_the_operators_token_and_logging_out_end_what_is_open(operator: Browser) -> None:
    async with operator.stream("overview") as events:
        assert (await operator.post("logout", {}))[0] == OK
        assert await events.over() == "logged out"
    assert (await operator.get("/console/me"))[0] == UNKNOWN
    await operator.log_in(operator.operator_token)
    async with operator.stream("overview") as events:
        (operator.yard.folder / "data" / "http.token").write_text("another-token-of-the-operator\n")
        assert await events.over() == "the token is no longer in force"
    assert (await operator.get("/console/me"))[0] == UNKNOWN


async def test_who_was_away_for_long_has_to_log_in_again(operator: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "IDLE_S", -1.0)
    assert (await operator.get("/console/me"))[0] == UNKNOWN


async def test_what_is_done_is_audited_with_how_it_came(operator: Browser, served: Stubs) -> None:
    alice, created = await tenant(served, operator, "alice")
    execution = await alice.run("nb", "value 1")
    await operator.run("nb", "value 2", tenant="alice")
    theirs, the_operators = await audited(operator, "Executions.Enqueue")
    assert theirs["via"] == "http"
    assert (theirs["tenant"], theirs["token"], theirs["notebook_id"]) == ("alice", created.token_id, "nb")
    assert theirs["execution_id"] == execution
    assert theirs["from"].startswith("http:127.0.0.1:")
    assert the_operators["via"] == "http, the operator"
    assert the_operators["tenant"] == "alice"


async def test_the_process_runtime_is_not_for_pages(yard: Yard, session: aiohttp.ClientSession) -> None:
    await yard.start(http={"listen": "127.0.0.1:0"})
    browser = Browser(yard, session)
    await browser.log_in(browser.operator_token)
    message = {"notebook_id": "n", "source": {"cell_id": "c", "source": "1"}, "kernel": {"runtime": "process"}}
    code, said = await browser.call("Executions.Enqueue", message)
    assert (code, said["reason"]) == (FORBIDDEN, "PERMISSION_DENIED")


STRANGE = {
    "no-json": b"{",
    "a-list": b"[]",
    "no-message": b"{}",
    "message-is-text": b'{"message": "x"}',
    "unknown-field": b'{"message": {"nothing": 1}}',
    "wrong-type": b'{"message": {"notebook_id": 1}}',
    "deep": b'{"message": {"notebook_id": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}",
    "surrogate": b'{"message": {"notebook_id": "\\ud800", "cell_id": "c"}}',
    "nan": b'{"message": {"notebook_id": "n", "cell_id": "c", "index": NaN}}',
    "control": b'{"message": {"notebook_id": "n\\u0000", "cell_id": "c"}}',
    "empty": b'{"message": {"notebook_id": "", "cell_id": "c"}}',
    "long-id": b'{"message": {"notebook_id": "' + b"n" * 10_000 + b'", "cell_id": "c"}}',
    "utf-8": b'{"message": {"notebook_id": "\xff"}}',
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE.keys())
async def test_a_call_that_is_none_is_refused_with_a_reason(operator: Browser, content: bytes) -> None:
    headers = {"Cookie": operator.cookie, **ASKED}
    url = f"{operator.url}/console/call/Notebooks.CreateCell"
    async with operator.session.post(url, data=content, headers=headers) as answer:
        assert answer.status == BAD, await answer.text()
        assert (await answer.json())["reason"] == "INVALID_REQUEST"


async def test_methods_that_pages_do_not_call_are_not_there(operator: Browser) -> None:
    for method in (
        "Tenants.Create",
        "Notebooks.Delete",
        "Sessions.Hello",
        "Files.Upload",
        "Notebooks.Watch",
        "__init__",
    ):
        assert (await operator.call(method, {}))[0] == NOT_FOUND, method


async def test_huge_requests_are_refused_before_they_are_read(operator: Browser) -> None:
    head = ("X-Cellyard: 1", "Content-Type: application/json")
    login = request(operator.port, "/console/login", *head, "Content-Length: 20000", method="POST") + b"x" * 20000
    assert status(await raw(operator.port, login)) == TOO_LARGE
    source = {"notebook_id": "n", "source": {"cell_id": "c", "source": "x" * (5 * 1024 * 1024)}}
    content, headers = io.BytesIO(json.dumps({"message": source}).encode()), {"Cookie": operator.cookie, **ASKED}
    url = f"{operator.url}/console/call/Executions.Enqueue"
    async with operator.session.post(url, data=content, headers=headers) as answer:
        assert answer.status == BAD
        assert "at most" in (await answer.json())["message"]


async def test_a_body_that_expands_is_as_large_as_what_comes_out(operator: Browser) -> None:
    bomb = zlib.compress(b" " * (64 * 1024 * 1024))
    headers = {"Cookie": operator.cookie, **ASKED, "Content-Encoding": "deflate"}
    async with operator.session.post(f"{operator.url}/console/markdown", data=bomb, headers=headers) as answer:
        assert answer.status in (BAD, TOO_LARGE)


async def test_slow_requests_and_many_connections_disturb_neither_pages_nor_metrics(
    operator: Browser, served: Stubs
) -> None:
    async with operator.stream("overview") as events:
        await events.next()
        slow = [await asyncio.open_connection("127.0.0.1", operator.port) for _ in range(2 * server.MAX_CONNECTIONS)]
        try:
            for _, writer in slow:
                writer.write(b"POST /console/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
            bearer = {"Authorization": f"Bearer {operator.operator_token}"}
            assert (await operator.get("/metrics", **bearer))[0] == OK
            await served.run("seen", "value 1")
            await events.until(lambda parts: "seen" in json.dumps(parts))
        finally:
            for _, writer in slow:
                writer.close()


async def test_of_one_visitors_many_streams_the_oldest_end(operator: Browser) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    url, headers = f"{operator.url}/console/overview", {"Cookie": operator.cookie}
    opened = [
        await operator.session.get(url, headers=headers, timeout=timeout) for _ in range(visitors.STREAMS_EACH + 1)
    ]
    try:
        async with asyncio.timeout(WITHIN):
            first = await opened[0].text()
        assert first.endswith('event: over\ndata: "too many pages are open"\n\n')
    finally:
        for each in opened:
            each.close()


async def test_open_streams_do_not_hold_up_the_end(yard: Yard, operator: Browser) -> None:
    async with operator.stream("overview") as events:
        await events.next()
        stopping = asyncio.ensure_future(yard.stop())
        assert await events.over() == "the controller is stopping"
        await stopping


async def test_who_logs_in_again_and_again_pushes_out_nobody_else(operator: Browser, served: Stubs) -> None:
    alice, created = await tenant(served, operator, "alice")
    first = alice.cookie
    for _ in range(visitors.VISITORS_EACH):
        assert (await alice.log_in(created.token))[0] == OK
    assert (await alice.get("/console/me"))[0] == OK
    alice.cookie = first
    assert (await alice.get("/console/me"))[0] == UNKNOWN
    assert (await operator.get("/console/me"))[0] == OK
