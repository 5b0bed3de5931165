"""An MCP server that behaves, but for what its first argument says. Needs nothing but the standard library."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

fault = sys.argv[1]
folder = Path(sys.argv[2])
out = sys.stdout.buffer


def send(message: object) -> None:
    out.write(json.dumps(message).encode() + b"\n")
    out.flush()


def answer(number: object, result: object) -> None:
    send({"jsonrpc": "2.0", "id": number, "result": result})


def told(text: str) -> None:
    with open(folder / "told", "a") as file:
        file.write(text + "\n")


told(str(os.getpid()))
if fault == "silent":
    sys.stdin.read()
if fault == "dead":
    sys.exit("cannot even start")
if fault == "endless line":
    while True:
        out.write(b"x" * 65536)
if fault == "garbage":
    out.write(b"Starting up!\n\xff\xfe\n{\n[]\nnull\n" + b"[" * 100_000 + b'\n{"jsonrpc": "2.0"}\n\n')
    out.flush()
if fault == "complains" and os.fork() == 0:
    while True:
        os.write(2, b"complaint\n" * 1000)
tools = [{"name": "go", "inputSchema": {"type": "object", "properties": {"a": {}}}}]
if fault == "names":
    tools = [{"name": name, "inputSchema": {}} for name in ("a-b", "a.b", "class", "ok")]
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message["method"]
    if method == "initialize":
        result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        answer(number, {**result, "serverInfo": {"name": "rogue", "version": "1"}})
    elif method == "tools/list":
        if fault == "endless list":
            answer(number, {"tools": tools * 100, "nextCursor": "more"})
        else:
            answer(number, {"tools": "none" if fault == "bad list" else tools})
    elif method == "tools/call":
        if fault == "nonsense":
            answer(number, {"content": "nonsense"})
        elif fault == "other number":
            answer(12345, {"content": []})
            answer("x", {"content": []})
            answer(number, {"content": [{"type": "text", "text": "right"}]})
        elif fault == "refuses":
            send({"jsonrpc": "2.0", "id": number, "error": {"code": -32000, "message": "not you"}})
        elif fault == "closes output":
            out.close()
            os.close(1)
            sys.stdin.read()
        elif fault == "huge":
            answer(number, {"content": [{"type": "text", "text": "x" * (17 * 1024 * 1024)}]})
        elif fault != "hangs":
            answer(number, {"content": [{"type": "text", "text": str(os.getpid())}]})
    elif method.startswith("notifications/"):
        told(method)
if fault == "stays":
    (folder / "left").write_text("left")
    signal.pause()
