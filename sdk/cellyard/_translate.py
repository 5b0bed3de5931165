"""From the protocol's messages to what users see. Proto types end here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TypeAlias

from cellyard import results
from cellyard._values import decode_value
from cellyard_proto.outputs import OutputFold, metadata_to_nbformat, to_nbformat
from cellyard_proto.v1 import executions_pb2, kernels_pb2, notebooks_pb2, outputs_pb2, sandboxes_pb2

State = executions_pb2.ExecutionState
ExecutionEnd: TypeAlias = executions_pb2.ExecutionEnd.ValueType

_ENDS: dict[ExecutionEnd, results.End] = {
    executions_pb2.EXECUTION_END_SUCCEEDED: results.End.SUCCEEDED,
    executions_pb2.EXECUTION_END_FAILED: results.End.FAILED,
    executions_pb2.EXECUTION_END_TIMED_OUT: results.End.TIMED_OUT,
    executions_pb2.EXECUTION_END_INTERRUPTED: results.End.INTERRUPTED,
    executions_pb2.EXECUTION_END_CANCELLED: results.End.CANCELLED,
    executions_pb2.EXECUTION_END_LOST: results.End.LOST,
}
_RUNNING = (
    kernels_pb2.KERNEL_STATE_IDLE,
    kernels_pb2.KERNEL_STATE_BUSY,
    kernels_pb2.KERNEL_STATE_RESTARTING,
)


def end(value: ExecutionEnd) -> results.End | None:
    """How it ended; None for "not yet". An end that this release does not know counts as lost."""
    if value == executions_pb2.EXECUTION_END_UNSPECIFIED:
        return None
    return _ENDS.get(value, results.End.LOST)


def moment(seconds: float) -> datetime | None:
    """A time of the protocol; None where it has not happened."""
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def usage(message: executions_pb2.Usage) -> results.Usage:
    """What was used."""
    return results.Usage(message.cpu_s, message.peak_memory_bytes, message.wall_s)


def outputs(messages: Iterable[outputs_pb2.Output]) -> list[results.Output]:
    """Outputs as they stand; neighbouring chunks of a stream are one."""
    fold = OutputFold(to_nbformat(message) for message in messages)
    return [results.Output.from_nbformat(output) for output in fold.outputs()]


def execution(message: executions_pb2.Execution) -> results.ExecutionResult:
    """One execution as it stands."""
    value, is_repr = decode_value(message.value.json, is_repr=message.value.is_repr)
    return results.ExecutionResult(
        cell_id=message.cell_id,
        execution_id=message.execution_id,
        outputs=outputs(message.outputs),
        execution_count=message.execution_count or None,
        end=end(message.end),
        end_reason=message.end_reason or None,
        end_message=message.end_message or None,
        value=value,
        value_is_repr=is_repr,
        usage=usage(message.usage) if message.HasField("usage") else None,
        source=message.source,
        accepted_at=moment(message.accepted_at),
        started_at=moment(message.started_at),
        ended_at=moment(message.ended_at),
    )


def cell(message: notebooks_pb2.Cell) -> results.Cell:
    """A cell with the outputs of its last execution."""
    return results.Cell(
        id=message.cell_id,
        cell_type=message.cell_type,
        source=message.source,
        execution_count=message.execution_count or None,
        outputs=outputs(message.outputs),
        metadata=metadata_to_nbformat(message.metadata_json),
        execution_id=message.execution_id or None,
        version=message.version,
    )


def capability(message: sandboxes_pb2.Capability) -> results.Capability:
    """A capability and why it is granted or not."""
    return results.Capability(message.name, message.granted, message.evidence, moment(message.probed_at))


def progress(message: kernels_pb2.Progress) -> results.Progress:
    """A step of a start."""
    return results.Progress(message.stage, message.message, message.fraction if message.HasField("fraction") else None)


def kernel_runs(message: kernels_pb2.Kernel) -> bool:
    """Whether there is a kernel that code can run in."""
    return message.state in _RUNNING
