"""What travels over the agent link, as plain data. Protocol buffers stop here; what an agent says is untrusted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cellyard_controller import json_text
from cellyard_controller.executions.model import USUAL, Manner, Outcome, Usage, Value
from cellyard_controller.executions.reports import (
    Asked,
    Called,
    Clear,
    CommSaid,
    Ended,
    Output,
    Report,
    Started,
    Truncated,
    Update,
    Warned,
    What,
)
from cellyard_controller.ids import ExecutionId
from cellyard_controller.runtimes import NOTHING_TOLD, ToldFacts
from cellyard_proto import outputs
from cellyard_proto.v1 import history_pb2, manner_pb2, outputs_pb2
from cellyard_proto.v1 import link_pb2 as pb

MAX_REPLY = 4 * 1024 * 1024
"""Characters of what an end brings along for a front end."""

_OUTCOMES = {
    pb.OUTCOME_OK: Outcome.OK,
    pb.OUTCOME_ERROR: Outcome.ERROR,
    pb.OUTCOME_KERNEL_GONE: Outcome.KERNEL_GONE,
}


@dataclass(frozen=True, slots=True)
class KernelReport:
    """The kernel's state, as the agent says."""

    state: str
    """`none`, `starting`, `ready` or `dead`."""
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class AgentHello:
    """What an agent says first on each connection."""

    kernel: KernelReport
    held: frozenset[ExecutionId]
    last_number: int
    open_calls: tuple[tuple[ExecutionId, str], ...] = ()
    """Calls of the code that wait for their answer: execution and call id."""
    facts: ToldFacts = NOTHING_TOLD
    """What it says of what confines it."""
    untouched: bool = False
    """Nobody was ever given the sandbox, and nothing was done in it."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the agent is told in return."""

    committed_number: int
    output_bytes: int
    output_count: int
    link_grace_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent's answer to a request with a number. Empty error: done."""

    request: int
    error: str
    content: str = ""
    """The kernel's reply as JSON, where it was asked something."""


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask the kernel beside its executions."""

    kind: str
    """`complete`, `inspect`, `is_complete`, `info` or `history`."""
    code: str = ""
    cursor: int = 0
    detail_level: int = 0
    limit: int = 0
    span: tuple[int, int, int | None] | None = None
    """Of a history: session, first count, and the count behind the last one."""
    search: tuple[str, bool] | None = None
    """Of a history: the pattern, and whether each source is wanted once."""
    output: bool = False
    transformed: bool = False


FromAgent = list[Report] | KernelReport | Answered | CommSaid


def comm_message(said: CommSaid) -> outputs_pb2.Comm:
    """A comm's message as the protocol has it."""
    message = outputs_pb2.Comm(comm_id=said.comm_id, buffers=said.buffers)
    data = json.dumps(said.data)
    if said.kind == "open":
        metadata = json.dumps(said.metadata)
        message.open.CopyFrom(
            outputs_pb2.CommOpen(target_name=said.target_name, data_json=data, metadata_json=metadata)
        )
    elif said.kind == "close":
        message.close.CopyFrom(outputs_pb2.CommClose(data_json=data))
    else:
        message.message.CopyFrom(outputs_pb2.CommMessage(data_json=data))
    return message


def manner_message(manner: Manner) -> manner_pb2.Manner | None:
    """How a source is to be run; None for as usual."""
    if manner == USUAL:
        return None
    message = manner_pb2.Manner(silent=manner.silent, payload=manner.payload)
    message.user_expressions.update(manner.user_expressions)
    if manner.store_history is not None:
        message.store_history = manner.store_history
    return message


def history_message(question: Question) -> pb.AskHistory:
    """What of the history is asked for."""
    asked = pb.AskHistory(limit=question.limit, output=question.output, transformed=question.transformed)
    if question.span is not None:
        session, start, stop = question.span
        asked.range.CopyFrom(history_pb2.HistoryRange(session=session, start=start, stop=stop))
    if question.search is not None:
        pattern, unique = question.search
        asked.search.CopyFrom(history_pb2.HistorySearch(pattern=pattern, unique=unique))
    return asked


def hello_of(hello: pb.Hello, peer_pid: int) -> AgentHello:
    """What an agent says first; `peer_pid`: the process that said it, by this machine's word."""
    facts = hello.facts
    return AgentHello(
        kernel=_kernel(hello.kernel),
        held=frozenset(ExecutionId(name) for name in hello.held_executions),
        last_number=hello.last_number,
        open_calls=tuple((ExecutionId(call.execution_id), call.call_id) for call in hello.open_calls),
        facts=ToldFacts(
            uid=facts.uid,
            cap_eff=facts.cap_eff[:64],
            no_new_privs=facts.no_new_privs,
            seccomp=facts.seccomp,
            root_read_only=facts.root_read_only,
            interfaces=tuple(sorted(name[:64] for name in facts.interfaces[:64])),
            routes=facts.routes,
            peer_pid=peer_pid,
        ),
        untouched=hello.untouched and not hello.held_executions,
    )


def _kernel(status: pb.KernelStatus) -> KernelReport:
    name = pb.HostState.Name(status.state).removeprefix("HOST_STATE_").lower()
    return KernelReport(name, status.generation, status.reason[:500])


def decode(frame: pb.FromAgent) -> FromAgent | None:
    """A frame as plain data, None for one that only shows life. Raises ValueError for what makes no sense."""
    kind = frame.WhichOneof("message")
    if kind == "batch":
        return [_report(event) for event in frame.batch.events]
    if kind == "kernel":
        return _kernel(frame.kernel)
    if kind == "reply":
        return Answered(frame.reply.request, frame.reply.error[:500], frame.reply.content_json)
    if kind == "comm":
        return _comm(frame.comm)
    if kind == "pong":
        return None
    raise ValueError(f"an unexpected frame: {kind}")


def _report(event: pb.Event) -> Report:
    return Report(event.number, ExecutionId(event.execution_id[:256]), _what(event), event.ByteSize())


def _comm(message: outputs_pb2.Comm) -> CommSaid:
    kind = message.WhichOneof("what")
    if kind is None:
        raise ValueError("a comm's message that says nothing")
    said = getattr(message, kind)
    is_open = kind == "open"
    return CommSaid(
        comm_id=message.comm_id[:256],
        kind=kind,
        data=_object(said.data_json),
        target_name=said.target_name[:256] if is_open else "",
        metadata=_object(said.metadata_json) if is_open else {},
        buffers=tuple(message.buffers),
    )


def _reply(text: str) -> str:
    """A JSON object as it is to be kept; "" for what is none, or too long."""
    known = _object(text) if len(text) <= MAX_REPLY else {}
    return json.dumps(known, separators=(",", ":")) if known else ""


def _object(text: str) -> dict[str, Any]:
    """A JSON object; what is none counts as empty, because code in the kernel writes these as it likes."""
    try:
        value = json_text.parse(text) if text else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _what(event: pb.Event) -> What:
    kind = event.WhichOneof("event")
    if kind == "started":
        return Started(event.started.execution_count)
    if kind == "output":
        return Output(outputs.to_nbformat(event.output))
    if kind == "clear_output":
        return Clear(event.clear_output.wait)
    if kind == "display_updated":
        update = event.display_updated
        return Update(
            update.display_id,
            outputs.data_to_nbformat(update.data),
            outputs.metadata_to_nbformat(update.metadata_json),
        )
    if kind == "host_call":
        call = event.host_call
        return Called(call.call_id[:256], call.name[:256], call.args_json, call.kwargs_json)
    if kind == "input_requested":
        asked = event.input_requested
        return Asked(asked.call_id[:256], asked.prompt, asked.password)
    if kind == "comm":
        return _comm(event.comm)
    if kind == "warning":
        said = event.warning
        details = {key[:64]: value[:256] for key, value in list(said.details.items())[:16]}
        return Warned(said.kind[:64], said.message[:1000], details)
    if kind == "truncated":
        return Truncated(event.truncated.after_bytes)
    if kind == "ended":
        ended = event.ended
        if ended.outcome not in _OUTCOMES:
            raise ValueError(f"an unknown outcome: {ended.outcome}")
        return Ended(
            outcome=_OUTCOMES[ended.outcome],
            execution_count=ended.execution_count,
            value=Value(ended.value.json, ended.value.is_repr) if ended.HasField("value") else None,
            interrupted_by=ended.interrupted_by,
            reason=ended.reason[:500],
            usage=Usage(ended.cpu_s, ended.peak_memory_bytes, ended.wall_s),
            traceparent=ended.traceparent[:64],
            waited_s=ended.waited_s,
            reply=_reply(ended.reply_json),
        )
    raise ValueError(f"an event of an unknown kind: {kind}")
