"""The caller's trace, where their program has one: sent along with each call, as W3C's trace context has it.

Nothing of OpenTelemetry is imported here. Whoever has an active span has imported it themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cellyard._version import VERSION


def headers() -> tuple[tuple[str, str], ...]:
    """The metadata of a call that is made now: the active span, and nothing where there is none."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ()
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    return (("traceparent", parent), *((("tracestate", state),) if state else ()))


class Traced:
    """A span of ours, or none."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **values: str) -> None:
        """Ids and ends, never content. Empty values are left out."""
        if self._span is not None:
            for name, value in values.items():
                if value:
                    self._span.set_attribute(f"cellyard.{name}", value)


@contextmanager
def span(name: str) -> Iterator[Traced]:
    """A span within the active one for what the block does; none where none is active."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None or not trace.get_current_span().get_span_context().is_valid:
        yield Traced()
        return
    tracer = trace.get_tracer("cellyard", VERSION)
    # What was raised may carry what the code has shown: only its kind is noted.
    silent = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(name, kind=trace.SpanKind.CLIENT, **silent) as made:
        try:
            yield Traced(made)
        except Exception as error:
            made.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            raise
