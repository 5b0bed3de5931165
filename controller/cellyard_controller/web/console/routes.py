"""What the console serves, to whom, and what each request has to bring."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller
from cellyard_controller.api.accounting import Failure
from cellyard_controller.config import Config
from cellyard_controller.errors import InvalidRequest, NotebookNotFound, Refused, Unauthenticated
from cellyard_controller.ids import LOCAL, ExecutionId, NotebookRef, TenantName
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.web.console import answers, contents, events
from cellyard_controller.web.console.calls import Calls
from cellyard_controller.web.console.markdown import MAX_MARKDOWN, Markdown
from cellyard_controller.web.console.origins import Origins, from_own_page, may_change
from cellyard_controller.web.console.overview import Overview
from cellyard_controller.web.console.pages import Pages
from cellyard_controller.web.console.visitors import TooManyStreams, TooManyTries, Visitor, Visitors

PATH = "/console/"
MAX_REQUEST = 16 * 1024 * 1024
"""Bytes of a request of somebody who has logged in; a source's own limit is smaller, and kept behind this."""
_MAX_LOGIN = 8 * 1024
_ARRIVES_WITHIN_S = 30.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KnownHandler = Callable[[web.Request, Visitor], Awaitable[web.StreamResponse]]


class Console:
    """The console's part of the HTTP side. `streaming` has the connections that carry a stream."""

    def __init__(
        self, access: Access, rooms: Rooms, config: Config, visitors: Visitors, overview: Overview, *, secure: bool
    ) -> None:
        """`secure`: it is served over TLS."""
        self._access, self._rooms, self._config = access, rooms, config
        self._visitors, self._overview, self._secure = visitors, overview, secure
        self._origins, self._pages, self._markdown = Origins(config.http.hosts), Pages(), Markdown()
        self._calls = Calls(access, rooms, config)
        self.streaming: set[object] = set()

    def add_to(self, application: web.Application) -> None:
        """Adds the routes."""
        router = application.router
        router.add_get("/console", self._guarded(self._moved, page=True), allow_head=False)
        router.add_get(PATH, self._guarded(partial(self._page, "index.html"), page=True), allow_head=False)
        router.add_get(PATH + "static/{name}", self._guarded(self._file, page=True), allow_head=False)
        router.add_post(PATH + "login", self._guarded(self._log_in))
        for name, read in {
            "me": self._me,
            "overview": self._watch_all,
            "watch": self._watch,
            "follow": self._follow,
            "frame": self._frame,
            "blob": self._blob,
        }.items():
            router.add_get(PATH + name, self._known(read), allow_head=False)
        for name, do in {"logout": self._log_out, "markdown": self._render, "call/{method}": self._call}.items():
            router.add_post(PATH + name, self._known(do))

    # Who may

    def _known(self, handler: KnownHandler) -> Handler:
        """For who has logged in alone."""

        async def known(request: web.Request) -> web.StreamResponse:
            visitor = self._visitors.find(request.cookies.get(self._cookie(request), ""))
            if visitor is None:
                raise Unauthenticated
            return await handler(request, visitor)

        return self._guarded(known)

    def _guarded(self, handler: Handler, *, page: bool = False) -> Handler:
        """For whoever comes by a name and from a page that are the console's own. A `page` may be linked to."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._is_host(request):
                return answers.error(421, "HOST", f"this is not {request.host[:100]!r}: see http.hosts")
            allowed = from_own_page if request.method == "GET" else may_change
            if not page and not allowed(request.headers, request.host):
                return answers.error(403, "ORIGIN", "this was asked for from elsewhere")
            try:
                return await handler(request)
            except Refused as refused:
                return answers.refusal(refused)
            except Failure:
                return answers.error(500, "INTERNAL", "internal error; the controller's log says more")
            except TooManyStreams:
                return answers.error(429, "QUOTA_EXCEEDED", "too many pages are open", retry_after_s=10)

        return guarded

    def _is_host(self, request: web.Request) -> bool:
        here = request.transport.get_extra_info("sockname") if request.transport is not None else None
        return here is not None and self._origins.known_host(request.host, here[0], here[1])

    def _cookie(self, request: web.Request) -> str:
        """Cookies are not kept apart by port: several controllers may be on one machine."""
        port = request.host.rpartition(":")[2]
        return f"cellyard-{port if port.isdecimal() else 'console'}"

    def _caller(self, request: web.Request, visitor: Visitor, tenant: str, notebook_id: str) -> Caller:
        """Who calls, in the tenant that they name. What is another's is not there. Raises NotebookNotFound."""
        name = TenantName(tenant) or visitor.tenant
        there = visitor.operator and (name == LOCAL or name in self._access.quotas.names())
        if name != visitor.tenant and not there:
            raise NotebookNotFound(f"notebook {notebook_id!r} not found", notebook_id=notebook_id)
        return visitor.caller(name, _address(request))

    def _asked(self, request: web.Request, visitor: Visitor) -> tuple[Caller, str]:
        """Who calls, and the notebook that the address names."""
        notebook_id = request.query.get("notebook", "")
        return self._caller(request, visitor, request.query.get("tenant", ""), notebook_id), notebook_id

    def _via(self, visitor: Visitor) -> str:
        return "http, the operator" if visitor.operator else "http"

    # Pages

    async def _moved(self, _: web.Request) -> web.Response:
        return web.Response(status=308, headers={"Location": PATH})

    async def _page(self, name: str, _: web.Request) -> web.Response:
        return self._pages.page(name)

    async def _file(self, request: web.Request) -> web.Response:
        return self._pages.page(request.match_info["name"])

    # Coming and going

    async def _log_in(self, request: web.Request) -> web.Response:
        given = await _body(request, _MAX_LOGIN)
        token = given.get("token") if isinstance(given, dict) else None
        audit, address = self._access.audit, _address(request)
        about: dict[str, Any] = {"from": address, "via": "http"}
        try:
            cookie, visitor = self._visitors.log_in(token if isinstance(token, str) else "", request.remote or "")
        except Unauthenticated as refused:
            audit.refused("Console.LogIn", tenant="", about={}, outcome="unauthenticated", **about)
            return answers.refusal(refused)
        except TooManyTries as wait:
            audit.refused("Console.LogIn", tenant="", about={}, outcome="too_many_tries", **about)
            said = "too many wrong tokens came from this address: try again later"
            return answers.error(429, "QUOTA_EXCEEDED", said, retry_after_s=wait.retry_after_s)
        audit.note("Console.LogIn", tenant=visitor.tenant, about={}, outcome="ok", **about, **_token(visitor))
        answer = web.json_response(_me(visitor))
        secure = self._secure or request.headers.get("Origin", "").startswith("https://")
        answer.set_cookie(
            self._cookie(request), cookie, path=PATH, httponly=True, samesite="Strict", secure=secure or None
        )
        return answer

    async def _log_out(self, request: web.Request, visitor: Visitor) -> web.Response:
        name = self._cookie(request)
        self._visitors.log_out(request.cookies[name])
        about: dict[str, Any] = {"from": _address(request), "via": "http", **_token(visitor)}
        self._access.audit.note("Console.LogOut", tenant=visitor.tenant, about={}, outcome="ok", **about)
        answer = web.json_response({})
        answer.del_cookie(name, path=PATH)
        return answer

    async def _me(self, request: web.Request, visitor: Visitor) -> web.Response:
        return web.json_response(_me(visitor))

    # Streams

    async def _watch_all(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        self._access.admit(visitor.caller(visitor.tenant, _address(request)), "Sandboxes.Watch")
        return await self._stream(request, visitor, self._overview.watch(None if visitor.operator else visitor.tenant))

    async def _watch(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        caller, notebook_id = self._asked(request, visitor)
        message = {"notebook_id": notebook_id}
        return await self._stream(
            request, visitor, self._calls.stream("Notebooks.Watch", message, caller, self._via(visitor))
        )

    async def _follow(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        """An execution's own events, for the page that answers its `input()`."""
        query = request.query
        caller, notebook_id = self._asked(request, visitor)
        message = {
            "notebook_id": notebook_id,
            "execution_id": query.get("execution", ""),
            "session_id": query.get("session", ""),
        }
        items = self._calls.stream("Executions.Attach", message, caller, self._via(visitor))
        return await self._stream(request, visitor, items)

    async def _stream(
        self, request: web.Request, visitor: Visitor, items: AsyncGenerator[Any, None]
    ) -> web.StreamResponse:
        protocol = request.protocol
        if self._access.stopping.is_set():
            await items.aclose()
            return answers.error(503, "CONTROLLER_UNAVAILABLE", "the controller is stopping", retry_after_s=2)
        stream = self._visitors.open_stream(visitor)
        self.streaming.add(protocol)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            async with aclosing(_for_pages(items)) as told:
                first = await anext(told, None)  # a refusal is answered as one, not as a stream
                await response.prepare(request)
                if first is not None:
                    await response.write(events.event(first).encode())
                await events.send(response, told, stream)
        except (Refused, Failure) as failed:
            if not response.prepared:
                raise
            reason = failed.reason if isinstance(failed, Refused) else "INTERNAL"
            await response.write(events.event(reason, "over").encode())
        except (TimeoutError, ConnectionError):
            pass  # nobody reads it any more
        finally:
            self.streaming.discard(protocol)
            self._visitors.close_stream(visitor, stream)
        return response

    # Outputs

    async def _frame(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        query = request.query
        digest, execution = query.get("digest", ""), ExecutionId(query.get("execution", ""))
        async with self._notebook(request, visitor) as ref:
            async with self._rooms.use(ref, create=False) as room:
                outputs = (await room.runs.get(execution)).outputs
            html = await asyncio.to_thread(contents.find_html, outputs, digest)
            if html is None and contents.is_shown(outputs, digest):
                with await self._rooms.blob(ref, digest) as file:
                    html = (await asyncio.to_thread(file.read, contents.MAX_FRAME) or b"").decode(errors="replace")
        if html is None:
            return web.Response(status=404, text="this output is not shown any more\n")
        document = await asyncio.to_thread(contents.frame, html)
        headers = {"Content-Security-Policy": contents.FRAME_POLICY, "X-Frame-Options": "SAMEORIGIN"}
        return web.Response(text=document, content_type="text/html", charset="utf-8", headers=headers)

    async def _blob(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        mime = request.query.get("mime", "")
        async with self._notebook(request, visitor) as ref:
            file = await self._rooms.blob(ref, request.query.get("digest", ""))
        with file:
            headers = {"Content-Security-Policy": contents.IMAGE_POLICY}
            if mime in contents.IMAGES:
                kind, parts = mime, contents.decoded(file)
            elif mime == contents.SVG:
                kind, parts = mime, contents.pieces(file)
            else:
                kind, parts = "text/plain; charset=utf-8", contents.pieces(file)
                headers["Content-Disposition"] = 'attachment; filename="output.txt"'
            response = web.StreamResponse(headers={**headers, "Content-Type": kind})
            return await _piece_by_piece(request, response, parts)

    async def _render(self, request: web.Request, visitor: Visitor) -> web.Response:
        given = await _body(request, 8 * MAX_MARKDOWN)
        text = given.get("text") if isinstance(given, dict) else None
        if not isinstance(text, str):
            raise InvalidRequest("no text to render")
        return web.json_response({"html": await self._markdown.html(text)})

    @asynccontextmanager
    async def _notebook(self, request: web.Request, visitor: Visitor) -> AsyncIterator[NotebookRef]:
        caller, notebook_id = self._asked(request, visitor)
        async with self._calls.guarded("Executions.Get", caller, self._via(visitor)):
            yield requests.notebook(notebook_id, caller, self._config)

    # Doing things

    async def _call(self, request: web.Request, visitor: Visitor) -> web.Response:
        name = request.match_info["method"]
        if not self._calls.has(name):
            return answers.error(404, "METHOD", f"pages call no {name[:80]!r}")
        given = await _body(request, MAX_REQUEST)
        if not isinstance(given, dict) or not isinstance(given.get("message"), dict):
            raise InvalidRequest("a call has a tenant and a message")
        message = given["message"]
        caller = self._caller(request, visitor, str(given.get("tenant", "")), str(message.get("notebook_id", "")))
        return web.json_response(await self._calls.one(name, message, caller, self._via(visitor)))


async def _for_pages(items: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async with aclosing(items):
        async for item in items:
            yield contents.without_html(item)


async def _piece_by_piece(
    request: web.Request, response: web.StreamResponse, parts: Iterator[bytes]
) -> web.StreamResponse:
    try:
        first = await asyncio.to_thread(next, parts, b"")
        await response.prepare(request)
        part = first
        while part:
            async with asyncio.timeout(events.WRITTEN_WITHIN_S):
                await response.write(part)
            part = await asyncio.to_thread(next, parts, b"")
    except (ValueError, TimeoutError):
        if not response.prepared:
            return answers.error(409, "CONTENT", "this is no picture")
        response.force_close()  # what is missing must not look like the end
    return response


async def _body(request: web.Request, limit: int) -> Any:
    """The JSON of a request. Raises InvalidRequest."""
    content = bytearray()
    try:
        async with asyncio.timeout(_ARRIVES_WITHIN_S):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > limit:
                    raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(content), text="too large\n")
        return json.loads(content)
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the request did not come\n") from None
    except (ValueError, RecursionError):
        raise InvalidRequest("the request is no JSON") from None


def _address(request: web.Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not peer:
        return "http"
    host, port = peer[:2]
    return f"http:{f'[{host}]' if ':' in host else host}:{port}"


def _me(visitor: Visitor) -> dict[str, Any]:
    scope = "full" if visitor.token is None else str(visitor.token.scope)
    return {"tenant": visitor.tenant, "operator": visitor.operator, "scope": scope}


def _token(visitor: Visitor) -> dict[str, str]:
    return {"by": "the operator"} if visitor.token is None else {"token": visitor.token.token_id}
