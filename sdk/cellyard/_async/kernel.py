"""A session's kernel: start, look, interrupt, restart, shut down; and what its sandbox has been shown to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from cellyard import _environments, _io_async, _requests, _translate
from cellyard._async.core import AsyncSessionCore
from cellyard._async.transport import Connection
from cellyard._markers import property_when_sync
from cellyard.errors import InvalidRequest, KernelDied
from cellyard.info import KernelInfo, kernel_info
from cellyard.results import Capability, Completeness, Completion, HistoryEntry
from cellyard_proto.document.schema import NOTEBOOK_METADATA
from cellyard_proto.outputs import data_to_nbformat, metadata_to_nbformat
from cellyard_proto.v1 import history_pb2, kernels_pb2, notebooks_pb2, outputs_pb2, sandboxes_pb2


class AsyncKernelCalls(AsyncSessionCore):
    """The part of a session that is about its kernel."""

    @property_when_sync
    async def kernel_started(self) -> bool:
        """Whether the notebook has a running kernel, whoever started it. False while not connected."""
        return (await self._kernel()) is not None

    @property_when_sync
    async def env_source(self) -> str | None:
        """The environment of the running kernel, e.g. "uv:prewarmed", never "auto"; None without a kernel."""
        kernel = await self._kernel()
        return kernel.env_source if kernel is not None else None

    async def start_kernel(
        self,
        kernel_type: str = "python",
        env_source: str = "auto",
        notebook_path: str | os.PathLike[str] | None = None,
    ) -> None:
        """Starts the notebook's kernel. On a running one it returns at once and keeps what runs.

        Connects where needed. `kernel_type` is "python" or "deno"; `env_source` "auto", "uv:prewarmed", ...
        `notebook_path` is the notebook's path on this machine, from which a project file is looked for; the kernel's
        working directory is its home in the sandbox, whatever it says. "auto" is the dependencies in the notebook's
        metadata, else the closest project file, else "uv:prewarmed". Steps are told to `on_progress`.

        Raises KernelMismatch when a kernel of another type runs, InvalidRequest for an unknown type or environment
        and for dependencies that are refused, CapabilityUnavailable when what the session requires cannot be had,
        EnvironmentFailed for what cannot be fetched (`details` has the requirement and the log), QuotaExceeded.
        """
        asked = _requests.kernel_choice(kernel_type, env_source, notebook_path)
        await self._connected()
        metadata = None
        if _environments.reads_metadata(*asked):
            request = notebooks_pb2.GetMetadataRequest(notebook_id=self._notebook_id, key=NOTEBOOK_METADATA)
            metadata = (await self._transport.call(lambda s: s.notebooks.GetMetadata, request)).value
        choice = _environments.choose(*asked, metadata, notebook_path)
        await self._start(choice)
        self._kernel_choice = choice

    async def _start(self, choice: kernels_pb2.KernelSettings) -> None:
        settings = kernels_pb2.KernelSettings()
        settings.CopyFrom(self._settings or settings)
        settings.MergeFrom(choice)
        request = kernels_pb2.StartKernel(
            notebook_id=self._notebook_id,
            request_id=_requests.request_id(),
            session_id=self._session_id,
            settings=settings,
        )

        def ask(connection: Connection) -> _io_async.Call[kernels_pb2.KernelEvent]:
            return connection.stubs.kernels.Start(request, metadata=connection.metadata)

        async for event in self._transport.stream(ask, lambda event: event.HasField("kernel")):
            if event.HasField("progress"):
                await _io_async.tell(self._on_progress, _translate.progress(event.progress))
            elif event.HasField("kernel") and event.kernel.state == kernels_pb2.KERNEL_STATE_DEAD:
                why = event.kernel.end_reason or "unknown reason"
                raise KernelDied(f"the kernel of {self._notebook_id} ended while it started: {why}", retryable=True)
        self._kernel_seen = True
        self._presence.used_kernel = True

    async def shutdown_kernel(self) -> None:
        """Ends the kernel and its sandbox, whoever uses it; without a kernel it does nothing.

        All state is gone, the document stays, execution counts start again at 1. A cell that ran ends `lost`,
        what waited is `cancelled`. Raises NotConnected before a connection.
        """
        self._need_connection()
        request = kernels_pb2.ShutdownKernel(notebook_id=self._notebook_id, request_id=_requests.request_id())
        await self._transport.call(lambda s: s.kernels.Shutdown, request)
        self._kernel_seen = False

    async def extend(self, ttl: float | None = None) -> KernelInfo:
        """Lets the kernel live on: `ttl` seconds from now, without it as long as it was started with.

        Raises NoKernel where none runs.
        """
        request = kernels_pb2.ExtendKernel(
            notebook_id=self._notebook_id,
            request_id=_requests.request_id(),
            ttl_s=_requests.seconds("ttl", ttl) or 0.0,
        )
        await self._connected()
        return kernel_info(await self._transport.call(lambda s: s.kernels.Extend, request))

    async def restart_kernel(self) -> None:
        """Replaces the kernel by a fresh one in the same sandbox. Raises NoKernel where none runs.

        A cell that ran ends `lost`, what waited is `cancelled`, both with reason `kernel_restarted`.
        """
        await self._connected()
        request = kernels_pb2.RestartKernel(
            notebook_id=self._notebook_id, request_id=_requests.request_id(), session_id=self._session_id
        )
        await self._transport.call(lambda s: s.kernels.Restart, request)

    async def interrupt(self, restart_after: float | None = None) -> None:
        """Ends the running cell with KeyboardInterrupt, and cancels what this session had queued before.

        What others wait for, and what is queued from now on, runs. Code may ignore an interrupt: with
        `restart_after` (seconds) the kernel is restarted then. An idle kernel is left alone.

        Raises NoKernel without a kernel, NotConnected before a connection.
        """
        limit = _requests.seconds("restart_after", restart_after)
        self._need_connection()
        request = kernels_pb2.InterruptKernel(
            notebook_id=self._notebook_id,
            request_id=_requests.request_id(),
            session_id=self._session_id,
            restart_after_s=limit,
        )
        await self._transport.call(lambda s: s.kernels.Interrupt, request)

    async def complete(self, code: str, cursor: int | None = None) -> Completion:
        """What could stand at a place in code, as the running kernel knows it; by default at the code's end.

        Raises NoKernel where none runs, ExecutionTimeout where it is busy for more than 5 s.
        """
        request = _requests.build(
            kernels_pb2.CompleteRequest, code=_requests.text("code", code), cursor=_requests.index(cursor, "cursor")
        )
        await self._connected()
        request.notebook_id = self._notebook_id
        answer = await self._transport.call(lambda s: s.kernels.Complete, request)
        metadata = metadata_to_nbformat(answer.metadata_json)
        return Completion(list(answer.matches), answer.cursor_start, answer.cursor_end, metadata)

    async def inspect(self, code: str, cursor: int | None = None, detail_level: int = 0) -> dict[str, Any] | None:
        """What the running kernel knows of the name at a place in code: text by MIME type, None for nothing.

        `detail_level` 1 asks for the source too. Errors as for `complete`.
        """
        request = _requests.build(
            kernels_pb2.InspectRequest,
            code=_requests.text("code", code),
            cursor=_requests.index(cursor, "cursor"),
            detail_level=detail_level,
        )
        await self._connected()
        request.notebook_id = self._notebook_id
        answer = await self._transport.call(lambda s: s.kernels.Inspect, request)
        return data_to_nbformat(answer.data) if answer.found else None

    async def history(self, limit: int = 1000) -> list[tuple[int, str]]:
        """What ran in this kernel, oldest first: count and source of the last `limit`. Errors as for `complete`."""
        request = kernels_pb2.HistoryRequest(notebook_id=self._notebook_id, limit=_requests.count("limit", limit))
        await self._connected()
        answer = await self._transport.call(lambda s: s.kernels.History, request)
        return [(entry.execution_count, entry.source) for entry in answer.entries]

    async def find_history(
        self,
        *,
        limit: int = 1000,
        session: int = 0,
        start: int | None = None,
        stop: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
        output: bool = False,
        raw: bool = True,
    ) -> list[HistoryEntry]:
        """What ran, oldest first: the last `limit`, or the counts from `start` up to `stop`, or what matches `pattern`
        (`*` and `?` as in file names; `unique`: each source once).

        `session` 0 is this kernel's life, all that a Python kernel knows of. With `output` entries have what was shown
        of their value; not `raw`, they are as the kernel ran them. Errors as for `complete`.
        """
        request = kernels_pb2.HistoryRequest(
            notebook_id=self._notebook_id,
            limit=_requests.count("limit", limit),
            output=bool(output),
            transformed=not raw,
        )
        if pattern is not None:
            pattern = _requests.text("pattern", pattern)
            request.search.CopyFrom(history_pb2.HistorySearch(pattern=pattern, unique=bool(unique)))
        elif start is not None or stop is not None or session:
            span = _requests.build(history_pb2.HistoryRange, session=session, start=start or 0, stop=stop)
            request.range.CopyFrom(span)
        await self._connected()
        answer = await self._transport.call(lambda s: s.kernels.History, request)
        return [
            HistoryEntry(
                entry.session, entry.execution_count, entry.source, entry.output if entry.HasField("output") else None
            )
            for entry in answer.entries
        ]

    async def is_complete(self, code: str) -> Completeness:
        """Whether code is ready to run, or goes on in another line. Errors as for `complete`."""
        request = kernels_pb2.IsCompleteRequest(code=_requests.text("code", code))
        await self._connected()
        request.notebook_id = self._notebook_id
        answer = await self._transport.call(lambda s: s.kernels.IsComplete, request)
        return Completeness(answer.status, answer.indent)

    async def kernel_info(self) -> dict[str, Any]:
        """What the running kernel says of itself, as Jupyter's kernel_info_reply has it: `language_info`, `banner`, ...

        One that is busy answers too. Raises NoKernel.
        """
        await self._connected()
        request = kernels_pb2.KernelInfoRequest(notebook_id=self._notebook_id)
        answer = await self._transport.call(lambda s: s.kernels.Info, request)
        return metadata_to_nbformat(answer.content_json)

    async def send_comm(
        self,
        comm_id: str,
        data: Mapping[str, Any],
        buffers: Sequence[bytes] = (),
        *,
        kind: Literal["open", "message", "close"] = "message",
        target_name: str = "",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Gives the kernel a message of a comm, as a front end does when somebody moves a widget.

        `kind` "open" opens one, to what the code has registered under `target_name`. What the kernel says in return
        comes with `watch`. Raises NoKernel; InvalidRequest for data that is no JSON.
        """
        text = _requests.json_text("data", data)
        message = _requests.build(outputs_pb2.Comm, comm_id=_requests.named("comm_id", comm_id), buffers=buffers)
        match _requests.one_of("kind", kind, ("open", "message", "close")):
            case "open":
                message.open.target_name = _requests.text("target_name", target_name)
                message.open.data_json = text
                message.open.metadata_json = _requests.json_text("metadata", metadata or {})
            case "close":
                message.close.data_json = text
            case _:
                message.message.data_json = text
        await self._connected()
        request = kernels_pb2.SendCommRequest(
            notebook_id=self._notebook_id, request_id=_requests.request_id(), comm=message
        )
        await self._transport.call(lambda s: s.kernels.SendComm, request)

    async def supports(self, capability: str) -> bool:
        """Whether a capability has been shown for the sandboxes of this session.

        Raises InvalidRequest for a name that the controller does not know.
        """
        _requests.named("capability", capability)
        known = await self.capabilities()
        if capability not in (each.name for each in known):
            names = ", ".join(sorted(each.name for each in known))
            raise InvalidRequest(f"unknown capability {capability!r}: one of {names}")
        return capability in await self._supported(known)

    async def supported_capabilities(self) -> set[str]:
        """The names of the capabilities that have been shown for the sandbox of this session, or for those that it
        would use."""
        return await self._supported(await self.capabilities())

    async def _supported(self, known: list[Capability]) -> set[str]:
        """What was proven of a sandbox that is there stays so, whatever the engine says now."""
        kernel = await self._kernel()
        if kernel is not None and kernel.sandbox_id:
            return set(kernel.capabilities)
        return {each.name for each in known if each.granted}

    async def capabilities(self) -> list[Capability]:
        """All capabilities with the evidence for or against each: of the running kernel's runtime, template and network
        policy, else of those that this session would use."""
        await self._connected()
        kernel = await self._kernel()
        settings = self._kernel_settings()
        request = sandboxes_pb2.GetCapabilitiesRequest(
            runtime=kernel.runtime if kernel is not None else settings.runtime,
            template=kernel.template if kernel is not None else settings.template,
            network=kernel.network if kernel is not None else settings.network,
        )
        answer = await self._transport.call(lambda s: s.sandboxes.GetCapabilities, request)
        return [_translate.capability(found) for found in answer.capabilities]

    async def _with_kernel(self) -> None:
        """For calls that need a sandbox and start one as `run` does: connected, and with a kernel."""
        await self._connected()
        await self._start(self._kernel_choice)

    async def _kernel(self) -> kernels_pb2.Kernel | None:
        """The running kernel; None where there is none, or no connection to ask over."""
        if not self._transport.is_open:
            return None
        request = kernels_pb2.GetKernel(notebook_id=self._notebook_id)
        kernel = await self._transport.call(lambda s: s.kernels.Get, request)
        self._kernel_seen = _translate.kernel_runs(kernel)
        return kernel if self._kernel_seen else None
