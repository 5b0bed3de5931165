"""A session's commands: processes beside its kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from cellyard import _io_async, _requests
from cellyard._async.kernel import AsyncKernelCalls
from cellyard._async.transport import Connection
from cellyard._io_async import Pieces
from cellyard.errors import ControllerUnavailable, ExecutionTimeout
from cellyard.processes import ProcessEnded, ProcessEvent, ProcessOutput, ProcessResult, ProcessStarted
from cellyard_proto.v1 import processes_pb2

_PART = 64 * 1024


class AsyncCommandCalls(AsyncKernelCalls):
    """The part of a session that runs commands."""

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: str | bytes | Pieces | None = None,
        timeout: float | None = 60.0,
        on_output: Callable[[ProcessOutput], Any] | None = None,
    ) -> ProcessResult:
        """Runs a command beside the kernel and waits for its end: `["ls", "-l"]`, a list, for there is no shell.

        Connects and starts a kernel where needed. The command has the sandbox's user, limits and variables; its
        working directory is the home. `stdin` is what it reads: bytes, text, or pieces of bytes that are sent as they
        come; nothing by default. `on_output` gets output as it comes; of what it writes, the first 16 MiB (the
        controller's `limits.command_output`) are kept.

        It is killed, with its process group, when `timeout` (seconds, None for none) is over, when this call is
        broken off, and when the kernel is restarted or shut down. Nothing of it is durable: a connection that breaks
        ends it. When it ends, what it has started in its process group is killed.

        Raises ExecutionTimeout, with what came until then as `details["result"]`; InvalidRequest for a program that
        is not found or cannot be run; QuotaExceeded where the sandbox has no process left; KernelDied where the
        sandbox ended; ControllerUnavailable where the connection broke; and what `start_kernel` raises.
        """
        async with aclosing(self._exec(argv, stdin, timeout)) as told:
            async for event in told:
                if isinstance(event, ProcessOutput):
                    await _io_async.tell(on_output, event)
                elif isinstance(event, ProcessEnded):
                    if event.result.timed_out:
                        raise ExecutionTimeout(
                            f"command {argv[0]!r} timed out after {timeout:g} s and was killed",
                            details={"timeout_s": timeout, "result": event.result},
                        )
                    return event.result
        raise ControllerUnavailable("the command's stream ended before its end")

    def stream_exec(
        self,
        argv: Sequence[str],
        *,
        stdin: str | bytes | Pieces | None = None,
        timeout: float | None = 60.0,
    ) -> AsyncIterator[ProcessEvent]:
        """Runs a command beside the kernel and gives events as they come; the last is `ProcessEnded`.

        How it ended is in that one's result, a timeout too. Leaving the loop kills the command. Parameters and other
        errors as for `exec`.
        """
        return self._exec(argv, stdin, timeout)

    async def _exec(
        self, argv: Sequence[str], stdin: str | bytes | Pieces | None, timeout: float | None
    ) -> AsyncGenerator[ProcessEvent, None]:
        start = _requests.build(
            processes_pb2.ExecStart,
            notebook_id=self._notebook_id,
            argv=_requests.argv(argv),
            timeout_s=_requests.seconds("timeout", timeout) or 0.0,
        )
        await self._with_kernel()
        failures: list[Exception] = []
        asked = False

        def ask(connection: Connection) -> _io_async.Call[processes_pb2.ExecOutput]:
            nonlocal asked
            if asked:  # it may have run: nobody but the caller can know whether to run it again
                raise ControllerUnavailable(f"the connection broke, and command {argv[0]!r} with it")
            asked = True
            return connection.stubs.processes.Exec(_input(start, stdin, failures), metadata=connection.metadata)

        stdout, stderr = bytearray(), bytearray()
        async with aclosing(self._transport.stream(ask, lambda said: said.HasField("ended"))) as told:
            async for said in told:
                match said.WhichOneof("output"):
                    case "started":
                        yield ProcessStarted(said.started.pid)
                    case "stdout":
                        stdout += said.stdout
                        yield ProcessOutput("stdout", said.stdout)
                    case "stderr":
                        stderr += said.stderr
                        yield ProcessOutput("stderr", said.stderr)
                    case "ended":
                        if failures:
                            raise failures[0]
                        ended = said.ended
                        yield ProcessEnded(
                            ProcessResult(
                                exit_code=None if ended.signal else ended.exit_code,
                                signal=ended.signal or None,
                                stdout=bytes(stdout),
                                stderr=bytes(stderr),
                                timed_out=ended.timed_out,
                                discarded_bytes=ended.discarded_bytes,
                                duration=ended.wall_s,
                            )
                        )


async def _input(
    start: processes_pb2.ExecStart, stdin: str | bytes | Pieces | None, failures: list[Exception]
) -> AsyncGenerator[processes_pb2.ExecInput, None]:
    """The start of a command and what it reads. Where the caller's pieces fail, it has read all that came."""
    yield processes_pb2.ExecInput(start=start)
    try:
        async with aclosing(_io_async.each(_pieces(stdin))) as pieces:
            async for piece in pieces:
                view = memoryview(piece)
                for offset in range(0, len(view), _PART):
                    yield processes_pb2.ExecInput(stdin=bytes(view[offset : offset + _PART]))
    except Exception as failed:  # whatever the caller's iterator raises is the caller's to see
        failures.append(failed)


def _pieces(stdin: str | bytes | Pieces | None) -> Pieces:
    if stdin is None:
        return ()
    if isinstance(stdin, str):
        return (stdin.encode("utf-8", "surrogateescape"),)
    if isinstance(stdin, bytes | bytearray | memoryview):
        return (bytes(stdin),)
    return stdin
