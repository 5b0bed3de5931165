# ruff: noqa: N802  (gRPC names its methods so)
"""A small controller over real gRPC: the public services with scripted behaviour, for tests of the SDK.

It keeps everything in memory and does what the protocol's comments say, as far as the SDK can tell. Threads
rather than asyncio, so that it runs beside clients of both flavours.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2
from tests.integration.sdk.scripted_kernel import Gates, ScriptedKernel

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import (
    executions_pb2_grpc,
    kernels_pb2_grpc,
    notebooks_pb2_grpc,
    outputs_pb2,
    sandboxes_pb2_grpc,
    sessions_pb2_grpc,
)
from cellyard_proto.v1 import kernels_pb2 as kr
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import sessions_pb2 as ss

CODES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "UNAUTHENTICATED": grpc.StatusCode.UNAUTHENTICATED,
    "CONTROLLER_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    "QUOTA_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass
class Refusal(Exception):
    """An error as the controller sends it."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: int | None = None

    def send(self, context: grpc.ServicerContext) -> NoReturn:
        """Ends the call with it."""
        code = CODES.get(self.reason, grpc.StatusCode.FAILED_PRECONDITION)
        status = status_pb2.Status(code=code.value[0], message=self.message)
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(reason=self.reason, domain="cellyard", metadata=dict(self.metadata))
        )
        if self.retry_after_s is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.seconds = self.retry_after_s
            status.details.add().Pack(retry)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, self.message)
        raise AssertionError("abort raises")


@dataclass
class Execution:
    """One execution and its events."""

    state: ex.Execution
    start: ex.Start
    events: list[ex.ExecutionEvent] = field(default_factory=list)

    def outputs(self) -> list[outputs_pb2.Output]:
        """As they stand, by the rules of the protocol."""
        from cellyard_proto.outputs import (
            OutputFold,
            data_to_nbformat,
            from_nbformat,
            metadata_to_nbformat,
            to_nbformat,
        )

        fold = OutputFold()
        for event in self.events:
            kind = event.WhichOneof("event")
            if kind == "output":
                fold.append(to_nbformat(event.output))
            elif kind == "clear_output":
                fold.clear(wait=event.clear_output.wait)
            elif kind == "display_updated":
                updated = event.display_updated
                data, metadata = data_to_nbformat(updated.data), metadata_to_nbformat(updated.metadata_json)
                fold.update_display(updated.display_id, data, metadata)
        return [from_nbformat(output) for output in fold.outputs()]


@dataclass
class Notebook:
    """A document, its executions, its kernel."""

    cells: list[nb.Cell] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    queue: deque[Execution] = field(default_factory=deque)
    kernel: ScriptedKernel | None = None
    settings: kr.KernelSettings = field(default_factory=kr.KernelSettings)
    running: Execution | None = None
    users: set[str] = field(default_factory=set)

    def cell(self, cell_id: str) -> nb.Cell:
        """A cell by id."""
        for cell in self.cells:
            if cell.cell_id == cell_id:
                return cell
        raise Refusal("CELL_NOT_FOUND", f"cell {cell_id} not found", {"cell_id": cell_id})

    def execution(self, execution_id: str) -> Execution:
        """An execution by id."""
        for execution in self.executions:
            if execution.state.execution_id == execution_id:
                return execution
        raise Refusal("EXECUTION_NOT_FOUND", f"execution {execution_id} not found")


class ScriptedController:
    """The controller; tests look into it and set it up through its attributes."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.gates = Gates()
        self.notebooks: dict[str, Notebook] = {}
        self.requests: dict[str, Any] = {}  # what was answered, by request id
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.sessions: Counter[str] = Counter()  # open Attach streams: a new one may come before the old one's end
        self.closed_sessions: list[str] = []
        self.protocol = 1
        self.controller_id = uuid.uuid4().hex
        self.ready, self.not_ready_reason = True, ""
        self.token: str | None = None
        self.compacted = False  # ended executions have no single events any more
        self.no_kernel = ""  # why no kernel can be had: what waits for one is cancelled with this reason
        self.progress: list[kr.Progress] = []
        self.waiting: list[ex.Waiting] = []
        self.sandboxes: list[sb.Sandbox] = []
        self.large: int | None = None  # bytes from which on parts of outputs are only referred to
        self.blobs: dict[str, bytes] = {}
        self.blob_breaks: deque[Refusal] = deque()  # each after the first chunk of a blob
        self.faults: dict[str, deque[Callable[[], None] | Refusal]] = defaultdict(deque)
        self._server: grpc.Server | None = None
        self._workers: list[threading.Thread] = []

    def start(self, address: str) -> int:
        """Serves; gives the port, which says something for TCP only."""
        self._server = grpc.server(ThreadPoolExecutor(64))
        services = Services(self)
        notebooks_pb2_grpc.add_NotebooksServicer_to_server(services.notebooks, self._server)
        kernels_pb2_grpc.add_KernelsServicer_to_server(services.kernels, self._server)
        executions_pb2_grpc.add_ExecutionsServicer_to_server(services.executions, self._server)
        sandboxes_pb2_grpc.add_SandboxesServicer_to_server(services.sandboxes, self._server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(services.sessions, self._server)
        port = self._server.add_insecure_port(address)
        self._server.start()
        return port

    def stop(self) -> None:
        """Stops serving and lets every cell and stream go."""
        assert self._server is not None
        for notebook in self.notebooks.values():
            if notebook.kernel is not None:
                notebook.kernel.interrupt()
        self._server.stop(None).wait()

    def called(self, method: str) -> list[Any]:
        """The requests of a method so far."""
        return [request for name, request in list(self.calls) if name == method]

    def until(self, condition: Callable[[], bool], timeout: float = 10) -> None:
        """Returns when something is so; everything that happens here tells."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), "it did not happen"

    def tell(self) -> None:
        """Something happened."""
        with self.changed:
            self.changed.notify_all()

    def notebook(self, notebook_id: str) -> Notebook:
        """A notebook; the first word about it makes it."""
        return self.notebooks.setdefault(notebook_id, Notebook())

    # What executions do

    def accept(self, start: ex.Start) -> Execution:
        """Queues an execution, or finds the one that this request started."""
        if start.request_id in self.requests:
            return self.requests[start.request_id]
        notebook = self.notebook(start.notebook_id)
        if start.WhichOneof("what") == "source":
            cell = nb.Cell(cell_id=start.source.cell_id, cell_type="code", source=start.source.source, version="1")
            notebook.cells.append(cell)
        else:
            cell = notebook.cell(start.cell_id)
            if cell.cell_type != "code":
                raise Refusal("INVALID_REQUEST", f"{cell.cell_id} is a non-code cell")
        if start.coalesce:
            for waiting in (notebook.running, *notebook.queue):
                if waiting and waiting.state.cell_id == cell.cell_id and waiting.state.source == cell.source:
                    return waiting
        execution = Execution(
            ex.Execution(
                execution_id=f"exec-{uuid.uuid4()}",
                notebook_id=start.notebook_id,
                cell_id=cell.cell_id,
                source=cell.source,
                state=ex.EXECUTION_STATE_QUEUED,
                accepted_at=time.time(),
            ),
            start,
        )
        self.requests[start.request_id] = execution
        notebook.executions.append(execution)
        notebook.queue.append(execution)
        notebook.users.add(start.session_id)
        cell.execution_id = execution.state.execution_id
        self._event(execution, ex.ExecutionEvent(accepted=execution.state))
        worker = threading.Thread(target=self._work, args=(notebook,), daemon=True)
        worker.start()
        return execution

    def _work(self, notebook: Notebook) -> None:
        with self.changed:
            if notebook.running is not None or not notebook.queue:
                return None
            execution = notebook.queue.popleft()
            if execution.state.end:
                return self._work(notebook)
            if self.no_kernel:
                finished = ex.Finished(end=ex.EXECUTION_END_CANCELLED, end_reason=self.no_kernel)
                return self._finish(notebook, execution, finished)
            notebook.running = execution
            kernel = self.kernel(notebook, execution.start.kernel)
            execution.state.state = ex.EXECUTION_STATE_STARTED
            execution.state.started_at = time.time()
            started = ex.Started(execution_count=kernel.count + 1, started_at=execution.state.started_at)
            self._event(execution, ex.ExecutionEvent(started=started))
        timeout = execution.start.timeout_s if execution.start.HasField("timeout_s") else None
        finished = kernel.run(execution.state.source, timeout, functools.partial(self._shown, notebook, execution))
        with self.changed:
            if kernel.lost is not None:
                notebook.kernel = None
            notebook.running = None
            self._finish(notebook, execution, finished)
        self._work(notebook)
        return None

    def kernel(self, notebook: Notebook, settings: kr.KernelSettings) -> ScriptedKernel:
        """The notebook's kernel, started where there is none."""
        if notebook.kernel is None:
            notebook.kernel = ScriptedKernel(self.gates)
            notebook.settings = settings
        return notebook.kernel

    def _shown(self, notebook: Notebook, execution: Execution, message: Any) -> None:
        name = {"Output": "output", "ClearOutput": "clear_output", "DisplayUpdated": "display_updated"}
        event = ex.ExecutionEvent(**{name[type(message).__name__]: message})
        with self.changed:
            self._event(execution, event)
            if isinstance(message, outputs_pb2.DisplayUpdated):  # cells before this one may show it too
                for other in notebook.executions:
                    if other is not execution:
                        self._event(other, ex.ExecutionEvent(display_updated=message))

    def _finish(self, notebook: Notebook, execution: Execution, finished: ex.Finished) -> None:
        finished.ended_at = time.time()
        finished.end_reason, _, finished.end_message = finished.end_reason.partition(": ")
        state = execution.state
        state.state, state.end, state.end_reason = ex.EXECUTION_STATE_ENDED, finished.end, finished.end_reason
        state.end_message = finished.end_message
        state.execution_count, state.ended_at = finished.execution_count, finished.ended_at
        state.value.CopyFrom(finished.value)
        if finished.HasField("usage"):
            state.usage.CopyFrom(finished.usage)
        self._event(execution, ex.ExecutionEvent(finished=finished))
        if finished.end == ex.EXECUTION_END_FAILED:
            for waiting in [waiting for waiting in notebook.queue if waiting.start.stop_on_error]:
                self.cancel(notebook, waiting, "stop_on_error")

    def cancel(self, notebook: Notebook, execution: Execution, reason: str = "") -> None:
        """Ends a waiting execution, interrupts a running one."""
        with self.changed:
            if execution is notebook.running:
                assert notebook.kernel is not None
                notebook.kernel.interrupt()
            elif execution in notebook.queue:
                notebook.queue.remove(execution)
                finished = ex.Finished(end=ex.EXECUTION_END_CANCELLED, end_reason=reason)
                self._finish(notebook, execution, finished)

    def _event(self, execution: Execution, event: ex.ExecutionEvent) -> None:
        with self.changed:
            copy = ex.ExecutionEvent()
            copy.CopyFrom(event)
            copy.seq = len(execution.events) + 1
            execution.events.append(copy)
            execution.state.last_seq = copy.seq
            self.changed.notify_all()

    def follow(self, execution: Execution, after_seq: int, context: grpc.ServicerContext) -> Iterator[Any]:
        """The events of an execution up to its end."""
        seq = after_seq
        while context.is_active():
            with self.changed:
                self.changed.wait_for(lambda seq=seq: len(execution.events) > seq or not context.is_active())
                events = execution.events[seq:]
            for event in events:
                seq = event.seq
                finished = event.WhichOneof("event") == "finished"
                if self.compacted and execution.state.end and after_seq and not finished:
                    continue
                yield self.sent(event)
                if finished:
                    return

    def sent(self, message: Any) -> Any:
        """A message as it travels: large parts of outputs are only referred to."""
        if self.large is None:
            return message
        copy = type(message)()
        copy.CopyFrom(message)
        outputs = [copy.output] if isinstance(copy, ex.ExecutionEvent) else copy.outputs
        for output in outputs:
            if output.HasField("stream"):
                blob = self._kept(output.stream.text, json=False)
                if blob is not None:
                    output.stream.text = ""
                    output.stream.blob.CopyFrom(blob)
            kind = output.WhichOneof("kind")
            for value in getattr(output, kind).data.values() if kind in ("display_data", "execute_result") else ():
                blob = self._kept(value.json or value.text, json=value.HasField("json"))
                if blob is not None:
                    value.blob.CopyFrom(blob)
        return copy

    def _kept(self, text: str, *, json: bool) -> outputs_pb2.Blob | None:
        content = text.encode()
        if self.large is None or len(content) < self.large:
            return None
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs.setdefault(digest, content)
        return outputs_pb2.Blob(digest=digest, size=len(content), json=json)


def _whole(execution: Execution) -> ex.Execution:
    state = ex.Execution()
    state.CopyFrom(execution.state)
    state.outputs.extend(execution.outputs())
    return state


class Services:
    """The servicers; each call is noted, checked and turned into an error where one was scripted."""

    def __init__(self, controller: ScriptedController) -> None:
        self._controller = controller
        self.notebooks = self._servicer(_Notebooks, notebooks_pb2_grpc.NotebooksServicer)
        self.kernels = self._servicer(_Kernels, kernels_pb2_grpc.KernelsServicer)
        self.executions = self._servicer(_Executions, executions_pb2_grpc.ExecutionsServicer)
        self.sandboxes = self._servicer(_Sandboxes, sandboxes_pb2_grpc.SandboxesServicer)
        self.sessions = self._servicer(_Sessions, sessions_pb2_grpc.SessionsServicer)

    def _servicer(self, implementation: type, base: type) -> Any:
        service = base.__name__.removesuffix("Servicer")
        wrapped = {
            name: self._wrap(f"{service}.{name}", getattr(implementation, name))
            for name in dir(implementation)
            if not name.startswith("_")
        }
        servicer = type(implementation.__name__, (implementation, base), wrapped)()
        servicer.controller = self._controller
        return servicer

    def _wrap(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        controller = self._controller

        def enter(request: Any, context: grpc.ServicerContext) -> None:
            metadata = dict(context.invocation_metadata())
            with controller.changed:
                controller.calls.append((name, request))
                controller.metadata.append(metadata)
                controller.changed.notify_all()
            if controller.token is not None and metadata.get("authorization") != f"Bearer {controller.token}":
                raise Refusal("UNAUTHENTICATED", "authentication failed")
            if controller.faults[name]:
                fault = controller.faults[name].popleft()
                if isinstance(fault, Refusal):
                    raise fault
                fault()

        def unary(servicer: Any, request: Any, context: grpc.ServicerContext) -> Any:
            try:
                enter(request, context)
                answer = method(servicer, request)
            except Refusal as refusal:
                refusal.send(context)
            controller.tell()
            return answer

        def stream(servicer: Any, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            context.add_callback(controller.tell)
            try:
                enter(request, context)
                yield from method(servicer, request, context)
            except Refusal as refusal:
                refusal.send(context)

        return stream if name in STREAMS else unary


STREAMS = ("Executions.Execute", "Executions.Attach", "Executions.ReadBlob", "Kernels.Start", "Sessions.Attach")


class _Sessions:
    controller: ScriptedController

    def Hello(self, request: ss.HelloRequest) -> ss.HelloResponse:
        c = self.controller
        return ss.HelloResponse(
            server_version="scripted",
            protocol=c.protocol,
            tenant="local",
            controller_id=c.controller_id,
            ready=c.ready,
            not_ready_reason=c.not_ready_reason,
            runtimes=["docker", "process"],
        )

    def Attach(self, request: ss.AttachSession, context: grpc.ServicerContext) -> Iterator[ss.AttachedSession]:
        c = self.controller
        with c.changed:
            c.sessions[request.session_id] += 1
        try:
            yield ss.AttachedSession()
            with c.changed:
                c.changed.wait_for(lambda: not context.is_active())
        finally:
            with c.changed:
                c.sessions -= Counter([request.session_id])
                c.changed.notify_all()

    def Close(self, request: ss.CloseSession) -> ss.CloseSessionResponse:
        c = self.controller
        c.closed_sessions.append(request.session_id)
        notebook = c.notebook(request.notebook_id)
        used = request.session_id in notebook.users
        notebook.users.discard(request.session_id)
        last = used and not notebook.users
        if last:
            notebook.kernel = None
        return ss.CloseSessionResponse(kernel_shut_down=last)


class _Notebooks:
    controller: ScriptedController

    def CreateCell(self, request: nb.CreateCellRequest) -> nb.Cell:
        c = self.controller
        if request.request_id not in c.requests:
            cells = c.notebook(request.notebook_id).cells
            cell = nb.Cell(cell_id=request.cell_id, cell_type=request.cell_type, source=request.source, version="1")
            cells.insert(request.index if request.HasField("index") else len(cells), cell)
            c.requests[request.request_id] = cell
        return c.requests[request.request_id]

    def SetSource(self, request: nb.SetSourceRequest) -> nb.Cell:
        cell = self.controller.notebook(request.notebook_id).cell(request.cell_id)
        if request.if_version and request.if_version != cell.version:
            raise Refusal("CELL_CHANGED", f"cell {cell.cell_id} was changed")
        cell.source, cell.version = request.source, str(int(cell.version) + 1)
        return cell

    def GetCell(self, request: nb.GetCellRequest) -> nb.Cell:
        notebook = self.controller.notebook(request.notebook_id)
        return self.controller.sent(self._joined(notebook, notebook.cell(request.cell_id)))

    def ListCells(self, request: nb.ListCellsRequest) -> nb.ListCellsResponse:
        notebook = self.controller.notebook(request.notebook_id)
        return nb.ListCellsResponse(
            cells=[self.controller.sent(self._joined(notebook, cell)) for cell in notebook.cells]
        )

    def DeleteCell(self, request: nb.DeleteCellRequest) -> nb.DeleteCellResponse:
        notebook = self.controller.notebook(request.notebook_id)
        notebook.cells.remove(notebook.cell(request.cell_id))
        return nb.DeleteCellResponse()

    def SetMetadata(self, request: nb.SetMetadataRequest) -> nb.SetMetadataResponse:
        self.controller.notebook(request.notebook_id).metadata[request.key] = request.value
        return nb.SetMetadataResponse()

    def GetMetadata(self, request: nb.GetMetadataRequest) -> nb.GetMetadataResponse:
        value = self.controller.notebook(request.notebook_id).metadata.get(request.key)
        return nb.GetMetadataResponse(value=value)

    def List(self, request: nb.ListNotebooks) -> nb.ListNotebooksResponse:
        ids = [name for name in sorted(self.controller.notebooks) if name > request.after_notebook_id]
        found = [nb.NotebookInfo(notebook_id=name, created_at=1.0, changed_at=2.0) for name in ids]
        return nb.ListNotebooksResponse(notebooks=found[: request.limit or 1000])

    def Delete(self, request: nb.DeleteNotebook) -> nb.DeleteNotebookResponse:
        if self.controller.notebooks.pop(request.notebook_id, None) is None:
            raise Refusal("NOTEBOOK_NOT_FOUND", f"notebook {request.notebook_id} not found")
        return nb.DeleteNotebookResponse()

    @staticmethod
    def _joined(notebook: Notebook, cell: nb.Cell) -> nb.Cell:
        joined = nb.Cell()
        joined.CopyFrom(cell)
        if cell.execution_id:
            execution = notebook.execution(cell.execution_id)
            joined.execution_count = execution.state.execution_count
            joined.outputs.extend(execution.outputs())
        return joined


class _Kernels:
    controller: ScriptedController

    def Start(self, request: kr.StartKernel, context: grpc.ServicerContext) -> Iterator[kr.KernelEvent]:
        c = self.controller
        notebook = c.notebook(request.notebook_id)
        settings = request.settings
        if settings.kernel_type not in ("python", "deno"):
            raise Refusal("INVALID_REQUEST", f"unsupported kernel type {settings.kernel_type!r}")
        if notebook.kernel is not None and notebook.settings.kernel_type != settings.kernel_type:
            raise Refusal("KERNEL_MISMATCH", f"asked for {settings.kernel_type}, another kernel runs")
        for progress in c.progress:
            yield kr.KernelEvent(progress=progress)
        c.kernel(notebook, settings)
        notebook.users.add(request.session_id)
        yield kr.KernelEvent(kernel=self._kernel(notebook))

    def Get(self, request: kr.GetKernel) -> kr.Kernel:
        return self._kernel(self.controller.notebook(request.notebook_id))

    def Shutdown(self, request: kr.ShutdownKernel) -> kr.Kernel:
        notebook = self.controller.notebook(request.notebook_id)
        if notebook.kernel is not None and notebook.running is not None:
            notebook.kernel.lose("shutdown")
        notebook.kernel = None
        return self._kernel(notebook)

    def Interrupt(self, request: kr.InterruptKernel) -> kr.Kernel:
        notebook = self.controller.notebook(request.notebook_id)
        if notebook.kernel is None:
            raise Refusal("NO_KERNEL", f"no kernel runs for {request.notebook_id}")
        for waiting in list(notebook.queue):
            if waiting.start.session_id == request.session_id:
                self.controller.cancel(notebook, waiting, "interrupt")
        if notebook.running is not None:
            notebook.kernel.interrupt()
        return self._kernel(notebook)

    def Restart(self, request: kr.RestartKernel) -> kr.Kernel:
        notebook = self.controller.notebook(request.notebook_id)
        if notebook.kernel is None:
            raise Refusal("NO_KERNEL", f"no kernel runs for {request.notebook_id}")
        notebook.kernel = ScriptedKernel(self.controller.gates)
        return self._kernel(notebook)

    def _kernel(self, notebook: Notebook) -> kr.Kernel:
        if notebook.kernel is None:
            return kr.Kernel(state=kr.KERNEL_STATE_NONE)
        return kr.Kernel(
            state=kr.KERNEL_STATE_IDLE,
            kernel_type=notebook.settings.kernel_type or "python",
            env_source="uv:prewarmed",
            runtime=notebook.settings.runtime or "docker",
            template="default",
        )


class _Executions:
    controller: ScriptedController

    def Execute(self, request: ex.Start, context: grpc.ServicerContext) -> Iterator[ex.ExecutionEvent]:
        c = self.controller
        with c.changed:
            execution = c.accept(request)
            notebook = c.notebook(request.notebook_id)
            ahead = notebook.queue.index(execution) if execution in notebook.queue else 0
            ahead += notebook.running is not None and notebook.running is not execution
        for event in c.follow(execution, 0, context):
            yield event
            if event.WhichOneof("event") == "accepted":
                for progress in c.progress:
                    yield ex.ExecutionEvent(progress=progress)
                for waiting in c.waiting:
                    yield ex.ExecutionEvent(waiting=waiting)
                if ahead:
                    yield ex.ExecutionEvent(queued=ex.Queued(ahead=ahead))

    def Enqueue(self, request: ex.Start) -> ex.Execution:
        with self.controller.changed:
            return self.controller.accept(request).state

    def Attach(self, request: ex.AttachExecution, context: grpc.ServicerContext) -> Iterator[ex.ExecutionEvent]:
        execution = self.controller.notebook(request.notebook_id).execution(request.execution_id)
        yield from self.controller.follow(execution, request.after_seq, context)

    def Get(self, request: ex.GetExecution) -> ex.Execution:
        return self.controller.sent(
            _whole(self.controller.notebook(request.notebook_id).execution(request.execution_id))
        )

    def ReadBlob(self, request: ex.ReadBlobRequest, context: grpc.ServicerContext) -> Iterator[ex.BlobChunk]:
        content = self.controller.blobs[request.digest]
        for start in range(request.offset, len(content), 1000):
            yield ex.BlobChunk(content=content[start : start + 1000], size=len(content))
            if self.controller.blob_breaks:
                raise self.controller.blob_breaks.popleft()

    def List(self, request: ex.ListExecutions) -> ex.ListExecutionsResponse:
        newest = list(reversed(self.controller.notebook(request.notebook_id).executions))
        ids = [execution.state.execution_id for execution in newest]
        first = ids.index(request.before_execution_id) + 1 if request.before_execution_id else 0
        found = newest[first : first + (request.limit or 100)]
        return ex.ListExecutionsResponse(executions=[execution.state for execution in found])

    def Cancel(self, request: ex.CancelExecution) -> ex.Execution:
        notebook = self.controller.notebook(request.notebook_id)
        execution = notebook.execution(request.execution_id)
        self.controller.cancel(notebook, execution, "cancelled")
        return execution.state


class _Sandboxes:
    controller: ScriptedController

    def GetCapabilities(self, request: sb.GetCapabilitiesRequest) -> sb.GetCapabilitiesResponse:
        contained = (request.runtime or "docker") == "docker"
        return sb.GetCapabilitiesResponse(
            runtime=request.runtime or "docker",
            template=request.template or "default",
            ready=True,
            capabilities=[
                sb.Capability(name="timeout", granted=True, evidence="an interrupt ended a loop", probed_at=1.0),
                sb.Capability(name="container_isolation", granted=contained, evidence="CapEff is 0" * contained),
            ],
        )

    def List(self, request: sb.ListSandboxes) -> sb.ListSandboxesResponse:
        return sb.ListSandboxesResponse(sandboxes=self.controller.sandboxes)

    def Stop(self, request: sb.StopSandbox) -> sb.StopSandboxResponse:
        left = [sandbox for sandbox in self.controller.sandboxes if sandbox.sandbox_id != request.sandbox_id]
        self.controller.sandboxes[:] = left
        return sb.StopSandboxResponse()


def serve(folder: Path, name: str = "controller.sock") -> tuple[ScriptedController, Path]:
    """A controller that listens on a socket in this folder."""
    controller = ScriptedController()
    path = folder / name
    controller.start(f"unix:{path}")
    return controller, path
