"""What clients get: the controller's plain data as protocol messages."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cellyard_controller.executions import imported
from cellyard_controller.executions.model import Event, Execution, Notice
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks import watchers as w
from cellyard_controller.notebooks.installing import Installed
from cellyard_controller.notebooks.kernel import KernelView
from cellyard_controller.notebooks.pages import Cell
from cellyard_controller.sandboxes.flows import Package
from cellyard_controller.sandboxes.link_messages import comm_message
from cellyard_proto import outputs
from cellyard_proto.v1 import calls_pb2, kernels_pb2, notebooks_pb2, outputs_pb2
from cellyard_proto.v1 import executions_pb2 as ex


def cell(joined: Cell) -> notebooks_pb2.Cell:
    """A cell with the outputs that it shows."""
    document, last = joined.document, joined.execution
    return notebooks_pb2.Cell(
        cell_id=document.cell_id,
        cell_type=document.cell_type,
        source=document.source,
        execution_count=_count(last) if last else 0,
        outputs=[outputs.from_nbformat(output) for output in last.outputs] if last else [],
        metadata_json=json.dumps(document.metadata) if document.metadata else "",
        execution_id=last.execution_id if last else "",
        version=document.version,
    )


def installed(done: Installed) -> kernels_pb2.Installed:
    """What came of an installation."""
    return kernels_pb2.Installed(packages=packages(done.packages), already_present=done.already_present)


def packages(listed: Iterable[Package]) -> list[kernels_pb2.InstalledPackage]:
    """Packages in a kernel's sandbox."""
    return [kernels_pb2.InstalledPackage(name=each.name, version=each.version) for each in listed]


def execution(ref: NotebookRef, value: Execution) -> ex.Execution:
    """An execution as it stands."""
    message = ex.Execution(
        execution_id=value.execution_id,
        notebook_id=ref.notebook_id,
        cell_id=value.cell_id,
        state=ex.ExecutionState.Value(f"EXECUTION_STATE_{value.state.upper()}"),
        end=_end(value.end or ""),
        end_reason=value.end_reason,
        end_message=value.end_message,
        execution_count=_count(value),
        outputs=[outputs.from_nbformat(output) for output in value.outputs],
        accepted_at=value.accepted_at,
        started_at=value.started_at,
        ended_at=value.ended_at,
        source=value.source,
        last_seq=value.last_seq,
    )
    if value.value is not None:
        message.value.CopyFrom(outputs_pb2.Value(json=value.value.json, is_repr=value.value.is_repr))
    usage = value.usage
    if usage.wall_s:
        message.usage.CopyFrom(_usage(usage.cpu_s, usage.peak_memory_bytes, usage.wall_s))
    return message


def event(item: Event | Notice) -> ex.ExecutionEvent:
    """An event, or a notice with the number 0."""
    seq = item.seq if isinstance(item, Event) else 0
    return ex.ExecutionEvent(seq=seq, **{item.kind: _BODY[item.kind](item.body)})


def completion(reply: dict[str, Any]) -> kernels_pb2.CompleteResponse:
    """A kernel's complete_reply. Untrusted: what has another type counts as absent."""
    matches = reply.get("matches")
    return kernels_pb2.CompleteResponse(
        matches=[match for match in matches if isinstance(match, str)] if isinstance(matches, list) else [],
        cursor_start=_integer(reply.get("cursor_start")),
        cursor_end=_integer(reply.get("cursor_end")),
        metadata_json=_json_object(reply.get("metadata")),
    )


def inspection(reply: dict[str, Any]) -> kernels_pb2.InspectResponse:
    """A kernel's inspect_reply. Untrusted."""
    data = reply.get("data")
    return kernels_pb2.InspectResponse(
        found=reply.get("found") is True,
        data=outputs.data_from_nbformat(data) if isinstance(data, dict) else {},
        metadata_json=_json_object(reply.get("metadata")),
    )


def history(reply: dict[str, Any]) -> kernels_pb2.HistoryResponse:
    """A kernel's history_reply. Untrusted."""
    entries = reply.get("history")
    told = [
        kernels_pb2.HistoryEntry(
            execution_count=_integer(entry[1]), source=source, output=output, session=_integer(entry[0])
        )
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, list) and len(entry) == 3
        for source, output in [_ran(entry[2])]
        if source is not None
    ]
    return kernels_pb2.HistoryResponse(entries=told)


def completeness(reply: dict[str, Any]) -> kernels_pb2.IsCompleteResponse:
    """A kernel's is_complete_reply. Untrusted."""
    status, indent = reply.get("status"), reply.get("indent")
    return kernels_pb2.IsCompleteResponse(
        status=status if status in ("complete", "incomplete", "invalid") else "unknown",
        indent=indent[:1000] if isinstance(indent, str) else "",
    )


def kernel_info(reply: dict[str, Any]) -> kernels_pb2.KernelInfoResponse:
    """A kernel's kernel_info_reply. Untrusted: passed on as data."""
    return kernels_pb2.KernelInfoResponse(content_json=_json_object(reply))


def notebook_event(ref: NotebookRef, told: w.Told) -> notebooks_pb2.NotebookEvent:
    """Something that somebody who watches is told."""
    event = notebooks_pb2.NotebookEvent()
    match told:
        case w.SnapshotBegin():
            event.snapshot_begin.notebook_id = ref.notebook_id
        case w.SnapshotEnd():
            event.snapshot_end.SetInParent()
        case w.CellChanged():
            event.cell_changed.cell.CopyFrom(cell(Cell(told.cell, told.execution)))
            event.cell_changed.after_cell_id = told.after or ""
            event.cell_changed.with_outputs = told.outputs
            event.cell_changed.last_seq = told.execution.last_seq if told.execution else 0
        case w.CellRemoved():
            event.cell_removed.cell_id = told.cell_id
        case w.MetadataChanged():
            event.metadata_changed.CopyFrom(notebooks_pb2.MetadataChanged(key=told.key, value=told.value))
        case KernelView():
            event.kernel_changed.CopyFrom(kernel(told))
        case CommSaid():
            event.comm.CopyFrom(comm_message(told))
        case w.ExecutionChanged():
            event.execution_changed.CopyFrom(_execution_changed(ref, told))
    return event


def kernel(view: KernelView) -> kernels_pb2.Kernel:
    """A kernel as it stands."""
    return kernels_pb2.Kernel(
        state=kernels_pb2.KernelState.Value(f"KERNEL_STATE_{view.state.upper()}"),
        generation=view.generation,
        kernel_type=view.kernel_type,
        env_source=view.env_source,
        sandbox_id=view.sandbox_id,
        runtime=view.runtime,
        template=view.template,
        network=view.network,
        capabilities=view.capabilities,
        end_reason=view.end_reason,
        claimed_at=view.claimed_at,
        expires_at=view.expires_at,
    )


def _ran(entry: Any) -> tuple[str | None, str | None]:
    """What ran, and what it showed."""
    source, output = entry if isinstance(entry, list) and len(entry) == 2 else (entry, None)
    return source if isinstance(source, str) else None, output if isinstance(output, str) else None


def _integer(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _json_object(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) and value else ""


def _execution_changed(ref: NotebookRef, changed: w.ExecutionChanged) -> notebooks_pb2.ExecutionChanged:
    what = changed.what
    told = ex.ExecutionEvent(accepted=execution(ref, what)) if isinstance(what, Execution) else event(what)
    return notebooks_pb2.ExecutionChanged(execution_id=changed.execution_id, cell_id=changed.cell_id, event=told)


def _count(value: Execution) -> int:
    return imported.count_of(value) or 0


def _end(name: str) -> ex.ExecutionEnd.ValueType:
    return ex.ExecutionEnd.Value(f"EXECUTION_END_{name.upper()}" if name else "EXECUTION_END_UNSPECIFIED")


def _usage(cpu_s: float, peak: int, wall_s: float) -> ex.Usage:
    return ex.Usage(cpu_s=cpu_s, peak_memory_bytes=peak, wall_s=wall_s)


def _finished(body: dict[str, Any]) -> ex.Finished:
    finished = ex.Finished(
        end=_end(body["end"]),
        end_reason=body["end_reason"],
        end_message=body["end_message"],
        execution_count=body["execution_count"],
        ended_at=body["ended_at"],
        usage=_usage(*body["usage"]),
        reply_json=body.get("reply", ""),  # that of older releases has none
    )
    if body["value"] is not None:
        text, is_repr = body["value"]
        finished.value.CopyFrom(outputs_pb2.Value(json=text, is_repr=is_repr))
    return finished


def _display_updated(body: dict[str, Any]) -> outputs_pb2.DisplayUpdated:
    return outputs_pb2.DisplayUpdated(
        display_id=body["display_id"],
        data=outputs.data_from_nbformat(body["data"]),
        metadata_json=outputs.metadata_from_nbformat(body["metadata"]),
    )


_BODY: dict[str, Any] = {
    "queued": lambda body: ex.Queued(**body),
    "waiting": lambda body: ex.Waiting(**body),
    "progress": lambda body: kernels_pb2.Progress(**body),
    "started": lambda body: ex.Started(**body),
    "output": outputs.from_nbformat,
    "clear_output": lambda body: outputs_pb2.ClearOutput(**body),
    "display_updated": _display_updated,
    "finished": _finished,
    "host_call": lambda body: calls_pb2.HostCall(
        call_id=body["call_id"], name=body["name"], args_json=body["args"], kwargs_json=body["kwargs"]
    ),
    "input_requested": lambda body: calls_pb2.InputRequested(**body),
    "warning": lambda body: outputs_pb2.Warning(**body),
    "call_ended": lambda body: ex.CallEnded(call_id=body["call_id"]),
}
