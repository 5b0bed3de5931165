"""An MCP server made with the official library, as a program: over stdio, or over HTTP on a port that it prints."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

from mcp.server.fastmcp import Context, FastMCP, Image

server = FastMCP("test")


@server.tool()
def add(a: int, b: int = 1) -> str:
    """Adds two numbers.

    And more about it."""
    return str(a + b)


@server.tool(name="get-thing.v2")
def get_thing(name: str) -> list[str]:
    """Gets a thing."""
    return [name, "thing"]


@server.tool()
def search(query: str) -> str:
    return f"found {query}"


@server.tool()
def fail() -> str:
    raise ValueError("it cannot be done")


@server.tool()
def picture() -> Image:
    return Image(data=b"\x00\x01", format="png")


@server.tool()
def pid() -> str:
    return str(os.getpid())


@server.tool()
def child() -> str:
    """Starts a process that outlives the call."""
    return str(subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).pid)


@server.tool()
def crash() -> str:
    print("last words", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
async def hang(pipe: str, context: Context) -> str:  # type: ignore[type-arg]
    """Tells that it hangs, and whether that was ended."""
    try:
        await asyncio.to_thread(Path(pipe).write_text, "hangs")
        await asyncio.Event().wait()
    except BaseException:
        Path(f"{pipe}.ended").write_text("cancelled")  # noqa: ASYNC240 (whoever is cancelled cannot wait)
        raise
    return ""


@server.tool()
def header(context: Context) -> str:  # type: ignore[type-arg]
    request = context.request_context.request
    return "" if request is None else str(request.headers.get("authorization"))


async def over_http(kind: str) -> None:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    app = server.sse_app() if kind == "sse" else server.streamable_http_app()
    print(listening.getsockname()[1], flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).serve(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1:] == ["stdio"]:
        server.run("stdio")
    else:
        asyncio.run(over_http(sys.argv[1]))
