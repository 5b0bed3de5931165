"""What a client knows of one execution, built from its events. Pure: no gRPC, no waiting."""

from __future__ import annotations

import dataclasses

from cellyard import _translate, errors, events, results
from cellyard._values import decode_arguments, decode_value
from cellyard_proto.outputs import OutputFold, data_to_nbformat, metadata_to_nbformat, to_nbformat
from cellyard_proto.v1 import executions_pb2, outputs_pb2


class ExecutionView:
    """One execution as its stream tells it, by the same rules by which the controller folds outputs."""

    def __init__(self) -> None:
        self.seq = 0
        """Number of the last durable event that was taken; where to go on after a break."""
        self.execution_id = ""
        """Empty before the controller accepted it."""
        self.cell_id = ""
        self._result = results.ExecutionResult(cell_id="", execution_id="")
        self._fold = OutputFold()

    def take(self, message: executions_pb2.ExecutionEvent) -> events.Event | None:
        """Takes an event in and gives it as users see it; None for what is not for them, or known already."""
        if message.seq:
            if message.seq <= self.seq:
                return None
            self.seq = message.seq
        match message.WhichOneof("event"):
            case "accepted":
                self._accepted(message.accepted)
            case "queued":
                return events.Queued(message.queued.ahead, self.execution_id, self.cell_id)
            case "waiting":
                waiting = message.waiting
                eta = waiting.eta_s if waiting.HasField("eta_s") else None
                return events.Waiting(waiting.reason, waiting.position, eta, self.execution_id)
            case "progress":
                return _translate.progress(message.progress)
            case "started":
                return self._started(message.started)
            case "output":
                output = to_nbformat(message.output)
                self._fold.append(output)
                return events.OutputEvent(results.Output.from_nbformat(output), message.seq)
            case "clear_output":
                self._fold.clear(wait=message.clear_output.wait)
                return events.OutputCleared(message.clear_output.wait, message.seq)
            case "display_updated":
                return self._display_updated(message.display_updated)
            case "host_call":
                call = message.host_call
                args, kwargs = decode_arguments(call.args_json, call.kwargs_json)
                return events.HostCalled(call.name, args, kwargs, call.call_id, message.seq)
            case "input_requested":
                asked = message.input_requested
                return events.InputRequested(asked.prompt, asked.password, asked.call_id, message.seq)
            case "warning":
                said = message.warning
                return events.Warned(said.kind, said.message, dict(said.details), message.seq)
            case "finished":
                return self._finished(message.finished)
        return None

    def result(self) -> results.ExecutionResult:
        """The execution as far as it is known."""
        outputs = [results.Output.from_nbformat(output) for output in self._fold.outputs()]
        return dataclasses.replace(self._result, outputs=outputs)

    def _accepted(self, accepted: executions_pb2.Execution) -> None:
        self.execution_id = accepted.execution_id
        self.cell_id = accepted.cell_id
        self._result = dataclasses.replace(
            self._result,
            execution_id=accepted.execution_id,
            cell_id=accepted.cell_id,
            source=accepted.source,
            accepted_at=_translate.moment(accepted.accepted_at),
        )

    def _started(self, started: executions_pb2.Started) -> events.Started:
        count, at = started.execution_count or None, _translate.moment(started.started_at)
        self._result = dataclasses.replace(self._result, execution_count=count, started_at=at)
        return events.Started(count, at, self.execution_id, self.cell_id, self.seq)

    def _display_updated(self, updated: outputs_pb2.DisplayUpdated) -> events.DisplayUpdated:
        data, metadata = data_to_nbformat(updated.data), metadata_to_nbformat(updated.metadata_json)
        self._fold.update_display(updated.display_id, data, metadata)
        shown = {
            "output_type": "display_data",
            "data": data,
            "metadata": metadata,
            "transient": {"display_id": updated.display_id},
        }
        return events.DisplayUpdated(updated.display_id, results.Output.from_nbformat(shown), self.seq)

    def _finished(self, finished: executions_pb2.Finished) -> events.Finished:
        value, is_repr = decode_value(finished.value.json, is_repr=finished.value.is_repr)
        self._result = dataclasses.replace(
            self._result,
            end=_translate.end(finished.end),
            end_reason=finished.end_reason or None,
            end_message=finished.end_message or None,
            execution_count=finished.execution_count or self._result.execution_count,
            ended_at=_translate.moment(finished.ended_at),
            value=value,
            value_is_repr=is_repr,
            usage=_translate.usage(finished.usage) if finished.HasField("usage") else None,
            reply=metadata_to_nbformat(finished.reply_json),
        )
        return events.Finished(self.result(), self.seq)


def is_last(message: executions_pb2.ExecutionEvent) -> bool:
    """Whether the stream of an execution ends with this event."""
    return message.WhichOneof("event") == "finished"


def is_started(message: executions_pb2.ExecutionEvent) -> bool:
    """Whether the cell runs from this event on, or has ended without ever running."""
    return message.WhichOneof("event") in ("started", "finished")


_NEVER_RAN: dict[str, type[errors.CellyardError]] = {
    "start_failed": errors.EnvironmentFailed,
    "image_missing": errors.CapabilityUnavailable,
    "runtime_lost": errors.CapabilityUnavailable,
    "start_timeout": errors.ExecutionTimeout,
    **{
        kind.reason.lower(): kind
        for kind in (
            errors.CapabilityUnavailable,
            errors.EnvironmentFailed,
            errors.KernelMismatch,
            errors.PermissionDenied,
            errors.QuotaExceeded,
        )
    },
}


def refusal(result: results.ExecutionResult, timeout_s: float | None) -> errors.CellyardError | None:
    """The error for whoever awaits an execution that took too long, or never ran because no kernel could be had.

    None where the result itself says all: what the code did, or what somebody else did to its kernel.
    """
    if result.end is results.End.TIMED_OUT:
        return timed_out(result, timeout_s)
    if result.end is not results.End.CANCELLED:
        return None
    kind = _NEVER_RAN.get(result.end_reason or "")
    if kind is None:
        return None
    why = result.end_message or (result.end_reason or "").replace("_", " ")
    details = {"execution_id": result.execution_id, "cell_id": result.cell_id}
    if kind is errors.ExecutionTimeout:
        return errors.ExecutionTimeout(
            f"execution {result.execution_id} timed out before it started: {why}",
            retryable=True,
            details=details,
            execution_id=result.execution_id,
            result=result,
        )
    return kind(f"no kernel for execution {result.execution_id}: {why}", details=details)


def timed_out(result: results.ExecutionResult, timeout_s: float | None) -> errors.ExecutionTimeout:
    """The error for an execution that ran, or was awaited, longer than it was given."""
    limit = "" if timeout_s is None else f" after {timeout_s:g} s"
    fate = "it was interrupted" if result.end is results.End.TIMED_OUT else "it goes on"
    return errors.ExecutionTimeout(
        f"execution {result.execution_id} timed out{limit}, {fate}",
        details={"execution_id": result.execution_id, "cell_id": result.cell_id, "timeout_s": timeout_s},
        execution_id=result.execution_id,
        result=result,
    )
