"""Code mode where only the SDK itself is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys

for name in ("yaml", "pydantic", "httpx", "mcp", "redis", "sentence_transformers", "torch"):
    sys.modules[name] = None
from cellyard.codemode import Session
from cellyard.errors import CapabilityUnavailable

async def main(base, other):
    async with Session.inprocess(base) as session:
        await session.add_workflow("twice", "def run(n): return n * 2", "")
        print((await session.run("workflows.twice(n=21), [w.name for w in workflows.search('twice')]")).value)
    session = Session.inprocess(other)
    try:
        await session.start()
    except CapabilityUnavailable as missing:
        print("cellyard[codemode]" in str(missing))
    await session.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_workflows_work_and_tools_say_what_is_missing(tmp_path: Path) -> None:
    tools = tmp_path / "other" / "tools"
    tools.mkdir(parents=True)
    (tools / "t.yaml").write_text("name: t\ncommand: echo\n")
    arguments = [str(tmp_path / "base"), str(tmp_path / "other")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["(42, ['twice'])", "True"], done.stderr
