"""Tracebacks without what stands between code and whoever serves its calls."""

from __future__ import annotations

from types import TracebackType

_PLUMBING = ("cellyard_proto.codemode.", "cellyard_sandbox.codemode", "cellyard_sandbox.host")


def own(trace: TracebackType | None) -> TracebackType | None:
    """The same traceback with the frames of others' code alone."""
    kept = []
    while trace is not None:
        if not trace.tb_frame.f_globals.get("__name__", "").startswith(_PLUMBING):
            kept.append(trace)
        trace = trace.tb_next
    shown: TracebackType | None = None
    for each in reversed(kept):
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return shown
