"""The worker seen from the controller: started when needed, asked one thing at a time, replaced when it fails."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from cellyard_controller.config import Config
from cellyard_controller.replicas import frames
from cellyard_controller.replicas.inspection import SchemaLimits
from cellyard_controller.replicas.merging import MergeLimits

_READY_WITHIN = 30.0
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME")
"""What an interpreter may need to start; nothing else of the environment is the worker's business."""

log = structlog.get_logger()


class WorkerDied(Exception):
    """The worker was lost over a request: it took too long, too much memory, or crashed it. Says which."""

    def __init__(self, message: str, *, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung
        """It took too long: trying again would take as long."""


class Panicked(Exception):
    """The request went wrong inside automerge. The worker has forgotten the document, and lives."""


class RefusedByWorker(Exception):
    """The worker refuses what came from a client; says why."""


class UnknownToWorker(Exception):
    """The worker does not know this document or stream (any more). `what` is "document" or "stream"."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True)
class Answer:
    """What the worker found."""

    head: dict[str, Any]
    contents: list[bytes]

    @property
    def heads(self) -> list[bytes]:
        """The state of the worker's copy of the document."""
        return [bytes.fromhex(each) for each in self.head["heads"]]


class ReplicaWorker:
    """The one worker of a controller. Requests are done in the order in which they come."""

    def __init__(self, config: Config) -> None:
        self._config = config.replicas
        self._limits = _limits(config)
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._asked: set[asyncio.Task[Answer]] = set()
        self._closed = False
        self.starts = 0
        """How often a worker was started."""

    @property
    def pid(self) -> int | None:
        """The process id of the worker that runs now."""
        return None if self._process is None else self._process.pid

    async def ask(self, do: str, *, contents: Sequence[bytes] = (), **names: str) -> Answer:
        """Has something done. Raises UnknownToWorker, RefusedByWorker, Panicked, WorkerDied.

        A caller that is cancelled does not break the exchange for others.
        """
        task = asyncio.ensure_future(self._ask(do, contents, names))
        self._asked.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends the worker. What is asked of it from now on is refused."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        await asyncio.gather(*self._asked, return_exceptions=True)
        await self._end()

    async def _ask(self, do: str, contents: Sequence[bytes], names: dict[str, str]) -> Answer:
        async with self._turn:
            answer = await self._exchange(do, frames.encode({"do": do, **names}, contents))
        found = answer.head
        if "unknown" in found:
            raise UnknownToWorker(found["unknown"])
        if "refused" in found:
            raise RefusedByWorker(found["refused"])
        if "panic" in found:
            raise Panicked(found["panic"])
        return answer

    async def _exchange(self, do: str, frame: bytes) -> Answer:
        if self._closed:
            raise WorkerDied("the controller is stopping")
        if self._process is not None and self._process.stdout is not None and self._process.stdout.at_eof():
            await self._end()  # somebody else killed it
        process = self._process or await self._start()
        assert process.stdin is not None
        limit = self._config.load_deadline if do == "load" else self._config.deadline
        try:
            async with asyncio.timeout(limit):
                process.stdin.write(frame)
                await process.stdin.drain()
                answer = await _read(process)
        except TimeoutError:
            await self._end()
            raise WorkerDied(f"it took longer than {limit:g} s", hung=True) from None
        except (OSError, asyncio.IncompleteReadError, frames.Broken) as broken:
            code = await self._end()
            if self._closed:
                raise WorkerDied("the controller is stopping") from None
            log.warning("the replicas' worker was lost", while_it_did=do, code=code, why=str(broken))
            raise WorkerDied("it took more memory than there is for it, or crashed the worker") from None
        except BaseException:
            await self._end()
            raise
        if answer.head.get("resident", 0) > self._config.memory // 2:
            await self._end()  # it forgot what it could; only a fresh process gives the rest back
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        command = [sys.executable, "-P", "-m", "cellyard_controller.replicas"]
        process = await asyncio.create_subprocess_exec(
            *command,
            str(os.getpid()),
            json.dumps(self._limits),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # automerge's panics, as many as somebody likes to send
            cwd="/",
            env={name: os.environ[name] for name in _INHERITED if name in os.environ},
            start_new_session=True,
        )
        self._process = process
        self.starts += 1
        try:
            async with asyncio.timeout(_READY_WITHIN):
                await _read(process)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, frames.Broken):
            code = await self._end()
            if self._closed:
                raise WorkerDied("the controller is stopping") from None
            log.error("the replicas' worker does not start", code=code, command=command)
            raise WorkerDied("the worker does not start; the controller's log says more") from None
        return process

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            process.kill()
        except ProcessLookupError:
            pass
        assert process.stdin is not None
        process.stdin.close()
        return await process.wait()

    def _done(self, task: asyncio.Task[Answer]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, should its caller be gone


async def _read(process: asyncio.subprocess.Process) -> Answer:
    assert process.stdout is not None
    length = await process.stdout.readexactly(frames.LENGTH.size)
    head, sizes = frames.head(await process.stdout.readexactly(frames.head_size(length)))
    return Answer(head, [await process.stdout.readexactly(size) for size in sizes])


def _limits(config: Config) -> dict[str, Any]:
    given, limits = config.replicas, config.limits
    merging = MergeLimits(
        changes=given.changes,
        operations=given.operations,
        operations_at_once=given.operations_at_once,
        message=given.message,
        document=given.document,
        schema=SchemaLimits(source=limits.source, metadata=limits.metadata, identifier=limits.identifier),
    )
    return {**asdict(merging), "memory": given.memory, "comfortable": given.memory // 4}
