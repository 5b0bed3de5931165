"""A sandbox without a network answers a question with a tool of this program, and keeps how it did.

    python examples/code_mode/answer.py

A server on this machine has the figures of some projects. The first session's code asks it through `tools.curl`, which
runs here: the sandbox itself reaches nothing. What worked is kept as a workflow; a second session, in another sandbox,
finds it by what it does and calls it. `AGENT` stands for a model that writes the code.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cellyard.codemode import Session, ToolCall

PROJECTS = {"sieve": 120, "anvil": 4300, "loom": 870}

AGENT = {
    "look around": "[(tool.name, tool.description) for tool in tools.list()]",
    "try without": "import urllib.request\nurllib.request.urlopen('{url}', timeout=5)",
    "answer": """
import json
stars = json.loads(tools.curl.get(url='{url}'))
max(stars, key=stars.get)
""",
    "keep": '''
workflows.create("most_stars", """
import json

def run(url: str) -> str:
    stars = json.loads(tools.curl.get(url=url))
    return max(stars, key=stars.get)
""", "Which project at this URL has the most stars")
''',
    "find": "[found.name for found in workflows.search('project with most stars')]",
    "reuse": "workflows.most_stars(url='{url}')",
}


class Figures(BaseHTTPRequestHandler):
    """Serves the projects' stars."""

    def do_GET(self) -> None:
        body = json.dumps(PROJECTS).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written down."""


def on_tool_call(call: ToolCall) -> None:
    """Hears of each call before it is made; raising here would refuse it."""
    print(f"    (here: {call.tool}.{call.recipe} {call.args})")


async def step(session: Session, what: str, url: str) -> object:
    """Has the agent's code for one step run, and shows what came of it."""
    result = await session.run(AGENT[what].replace("{url}", url))
    shown = result.value if result.is_ok else (result.error or "").splitlines()[-1]
    print(f"{what:12} {shown}")
    return result.value


async def main() -> None:
    """Two sessions on one workspace."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Figures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/stars"
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder, "workspace")
        shutil.copytree(Path(__file__).parent / "workspace", workspace)
        wishes = {"require": {"container_isolation", "network_isolation"}}
        async with Session.from_base(workspace, on_tool_call=on_tool_call, **wishes) as first:
            for what in ("look around", "try without", "answer", "keep"):
                await step(first, what, url)
        async with Session.from_base(workspace, **wishes) as second:
            await step(second, "find", url)
            await step(second, "reuse", url)
    server.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
