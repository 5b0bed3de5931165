"""Tracebacks without what stands between code and whoever serves its calls, or interrupts it."""

from __future__ import annotations

from types import TracebackType

_PLUMBING = (
    "cellyard_proto.codemode.",
    "cellyard_sandbox.codemode",
    "cellyard_sandbox.host",
    "cellyard_sandbox.python_kernel.",
)


def own(trace: TracebackType | None) -> TracebackType | None:
    """The same traceback with the frames of others' code alone."""
    all_of_it, kept = trace, []
    left_out = False
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).startswith(_PLUMBING):
            left_out = True
        else:
            kept.append(trace)
        trace = trace.tb_next
    if not left_out:
        return all_of_it
    shown: TracebackType | None = None
    for each in reversed(kept):
        # An instruction between two lines, where an interrupt may come, has no number.
        line: int | None = each.tb_lineno
        first = each.tb_frame.f_code.co_firstlineno
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, first if line is None else line)
    return shown
