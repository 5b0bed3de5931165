"""Spans: of calls, and of executions from their acceptance to their end.

```
the client's span                    if it has sent one
  cellyard.v1.Executions/Execute     the call, as long as its stream is open
    cellyard.execution               from acceptance to end, whoever follows
      cellyard.queued                until it is sent to the agent
      cellyard.claim                 of the execution for which a sandbox was asked
        cellyard.claim.<stage>       each stage of a cold start: environment, create, kernel, files
      cellyard.agent                 from its being sent to its end; the agent is told this span
        cellyard.run                 how long the kernel had it, by the agent's word
```
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import structlog

from cellyard_controller.config import TracingConfig
from cellyard_controller.executions.model import End, Execution
from cellyard_controller.executions.reports import Ended
from cellyard_controller.ids import NotebookRef

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

CALL: ContextVar[Span | None] = ContextVar("call", default=None)
"""The span of the call that is being served."""
log = structlog.get_logger()

_HEADERS = ("traceparent", "tracestate")
_LONGEST_STAGE = 32
_BAD = (End.LOST, End.TIMED_OUT)


def installed() -> bool:
    """Whether the extra `tracing` is there."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def configured(config: TracingConfig, version: str, controller_id: str) -> Traces | None:
    """What makes spans and exports them; None where nobody wants any."""
    if not config.wanted:
        return None
    if not installed():  # the variables are meant for whoever started the controller, and not for it
        log.warning("OTEL_* variables ask for traces, and OpenTelemetry is not installed", extra="cellyard[tracing]")
        return None
    from cellyard_controller.tracing.exporting import provider

    return Traces(provider(config, version, controller_id), tenants=config.tenants)


class Traces:
    """Makes spans. Used on the controller's event loop alone; exporting is a thread of its own."""

    def __init__(self, provider: TracerProvider, *, tenants: bool) -> None:
        """`tenants`: whether spans may name them."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.api = trace
        self._provider, self._tenants = provider, tenants
        self._tracer = provider.get_tracer("cellyard_controller")
        self._propagator = TraceContextTextMapPropagator()

    def call(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Span:
        """A call has come; `method`: as in `Executions.Execute`. To be ended by `call_ended`."""
        given = {key: value for key, value in metadata if key in _HEADERS and isinstance(value, str)}
        context = self._propagator.extract(given) if given else None
        service, _, name = method.partition(".")
        attributes = {"rpc.system": "grpc", "rpc.service": f"cellyard.v1.{service}", "rpc.method": name}
        return self._tracer.start_span(
            f"cellyard.v1.{service}/{name}", context, kind=self.api.SpanKind.SERVER, attributes=attributes
        )

    def call_ended(self, span: Span, outcome: str, about: Mapping[str, str]) -> None:
        """It is over: `ok`, or the reason of a refusal. `about`: the ids of what it was about."""
        span.set_attribute("cellyard.outcome", outcome)
        for name, value in about.items():
            span.set_attribute(f"cellyard.{name}", value)
        if outcome == "internal_error":
            span.set_status(self.api.StatusCode.ERROR)
        span.end()

    def execution(self, ref: NotebookRef, execution: Execution, call: Span | None) -> ExecutionTrace:
        """An execution is accepted, in this call."""
        attributes = {
            "cellyard.notebook_id": ref.notebook_id,
            "cellyard.cell_id": execution.cell_id,
            "cellyard.execution_id": execution.execution_id,
            "cellyard.source_characters": len(execution.source),
        }
        if self._tenants:
            attributes["cellyard.tenant"] = ref.tenant
        return ExecutionTrace(self, self.start("cellyard.execution", call, attributes=attributes))

    def start(self, name: str, parent: Span | None, *, at: int | None = None, **more: Any) -> Span:
        """A span within another one. `at`: nanoseconds since the epoch, if not now."""
        return self._tracer.start_span(name, self._within(parent), start_time=at, **more)

    def close(self, within_s: float) -> None:
        """Exports what is left, for so long at most. Blocks."""
        from cellyard_controller.tracing.exporting import shut_down

        shut_down(self._provider, within_s)

    def _within(self, parent: Span | None) -> Context:
        from opentelemetry.context import Context

        return Context() if parent is None else self.api.set_span_in_context(parent, Context())


class ExecutionTrace:
    """What became of one execution. Used by its room's task alone."""

    def __init__(self, traces: Traces, span: Span) -> None:
        self._traces, self._span = traces, span
        self._queued: Span | None = traces.start("cellyard.queued", span)
        self._claim: Span | None = None
        self._stage: Span | None = None
        self._agent: Span | None = None
        self._sent_at = 0

    def claiming(self) -> None:
        """A sandbox is asked for, for this one first."""
        self._claim = self._traces.start("cellyard.claim", self._span)

    def waits(self, reason: str) -> None:
        """The claim waits for others to let go."""
        if self._claim is not None:
            self._claim.add_event("waiting", {"cellyard.reason": reason})

    def stage(self, name: str) -> None:
        """The sandbox is made: this is what is done now."""
        if self._claim is not None:
            self._end_stage()
            self._stage = self._traces.start(f"cellyard.claim.{name[:_LONGEST_STAGE]}", self._claim)

    def claimed(self, sandbox_id: str, failure: str = "") -> None:
        """There is a sandbox, or none to be had, for this reason."""
        if self._claim is None:
            return
        self._claim.set_attribute("cellyard.found", "warm" if self._stage is None else "cold")
        if sandbox_id:
            self._claim.set_attribute("cellyard.sandbox_id", sandbox_id)
        if failure:
            self._claim.set_attribute("cellyard.reason", failure)
            self._claim.set_status(self._traces.api.StatusCode.ERROR)
        self._end_stage()
        self._claim.end()
        self._claim = None

    def sent(self) -> str:
        """It goes to the agent; what that is told of the trace. A second time changes nothing."""
        if self._queued is not None:
            self._queued.end()
            self._queued = None
        if self._agent is None:
            self._agent = self._traces.start("cellyard.agent", self._span)
            self._sent_at = time.time_ns()
        context = self._agent.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def started(self) -> None:
        """The kernel has taken it up."""
        if self._agent is not None:
            self._agent.add_event("started")

    def ended(self, execution: Execution, report: Ended | None) -> None:
        """It has its end; `report`: what the agent says of it, where it was the one to end it."""
        self.claimed("", execution.end_reason)
        if self._queued is not None:
            self._queued.end()
        if self._agent is not None:
            if report is not None:
                self._told(self._agent, report)
            self._agent.end()
        assert execution.end is not None
        self._span.set_attribute("cellyard.end", execution.end.value)
        self._span.set_attribute("cellyard.end_reason", execution.end_reason[:64])
        self._span.set_attribute("cellyard.execution_count", execution.execution_count)
        self._span.set_attribute("cellyard.output_characters", execution.usage.output_bytes)
        if execution.end in _BAD:
            self._span.set_status(self._traces.api.StatusCode.ERROR)
        self._span.end()

    def left(self) -> None:
        """The controller ends before it does; a successor knows nothing of this trace."""
        self._span.set_attribute("cellyard.end", "left_to_a_successor")
        self._end_stage()
        for span in (self._claim, self._queued, self._agent, self._span):
            if span is not None:
                span.end()

    def _told(self, agent: Span, report: Ended) -> None:
        """What an agent says is believed as far as it fits between what was seen here."""
        if report.traceparent != self.sent():
            return  # an agent that knows nothing of traces
        now = time.time_ns()
        lasted = _nanoseconds(report.usage.wall_s, now - self._sent_at)
        waited = _nanoseconds(report.waited_s, now - self._sent_at)
        agent.set_attribute("cellyard.agent_waited_s", waited / 1e9)
        run = self._traces.start("cellyard.run", agent, at=now - lasted)
        run.set_attribute("cellyard.cpu_s", _finite(report.usage.cpu_s))
        run.set_attribute("cellyard.peak_memory_bytes", min(max(0, report.usage.peak_memory_bytes), 1 << 62))
        run.end(now)

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage.end()


def _finite(value: float) -> float:
    return value if 0.0 <= value < 1e12 else 0.0


def _nanoseconds(seconds: float, most: int) -> int:
    return min(int(_finite(seconds) * 1e9), max(0, most))
