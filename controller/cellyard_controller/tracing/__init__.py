"""Traces, where the operator wants them: what a call and an execution went through, as spans of OpenTelemetry.

OpenTelemetry is imported only then. Spans carry ids, ends and sizes; never code, output, or what a client is told.
"""

from cellyard_controller.tracing.spans import CALL, ExecutionTrace, Traces, configured, installed

__all__ = ["CALL", "ExecutionTrace", "Traces", "configured", "installed"]
