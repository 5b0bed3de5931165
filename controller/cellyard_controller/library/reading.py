"""Sources of workflows are read in processes of their own, one each: a parser holds the interpreter's lock.

Whatever a source does to the parser's stack, time or memory, it does it there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import structlog

from cellyard_controller.errors import Unavailable, WorkflowInvalid
from cellyard_controller.library.workflow_records import WorkflowRecord
from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.errors import WorkflowValidationError

CPU_S, MEMORY = 10, 768 * 1024 * 1024
"""What one reading may take; the worst source of the longest length that there may be takes a fourth of it."""
_PROGRAM = Path(__file__).with_name("read_source.py")
"""By its path: as a module of this package it would first import what the controller does."""
_WITHIN_S = 60.0
_AT_A_TIME = 2
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""What an interpreter may need to start; nothing else of the environment is the reader's business."""

log = structlog.get_logger()


class Reader:
    """Reads sources, a few at a time."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_A_TIME)

    async def read(self, name: str, source: str, description: str) -> WorkflowRecord:
        """The workflow that a source is. Raises WorkflowInvalid."""
        try:
            workflows.check_name(name)
            if len(source) > workflows.MAX_SOURCE:
                limit = workflows.MAX_SOURCE
                raise WorkflowValidationError(f"a workflow's source has at most {limit} characters, not {len(source)}")
        except WorkflowValidationError as wrong:
            raise WorkflowInvalid(str(wrong)) from None
        async with self._turn:
            told = await _told(json.dumps([name, source, description]).encode())
        if "invalid" in told:
            raise WorkflowInvalid(told["invalid"])
        return WorkflowRecord(name, source, description, told["summary"])


async def _told(asked: bytes) -> dict[str, str]:
    """What a process of its own says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(_PROGRAM), str(os.getpid()), str(CPU_S), str(MEMORY)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={name: os.environ[name] for name in _INHERITED if name in os.environ},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_WITHIN_S):
            said, _ = await process.communicate(asked)
    except TimeoutError:
        raise Unavailable(f"a workflow's source could not be read within {_WITHIN_S:g} s", retryable="true") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return dict(json.loads(said))
    log.warning("a workflow's source broke its reader", code=process.returncode)
    return {"invalid": "Syntax error in workflow code: too long or too deeply nested to be read"}
