"""Results as code mode has them: an error that is a text, whatever ran the code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cellyard import results
from cellyard.codemode.results import ExecutionResult, Failure
from cellyard.results import End, Output

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def of(end: End | None, *outputs: Output, timeout: float | None = None, **more: Any) -> ExecutionResult:
    result = results.ExecutionResult("cell", "run", outputs=list(outputs), end=end, **more)
    return ExecutionResult.from_result(result, timeout=timeout, backend_info={"backend": "container"})


def test_a_success_has_everything_of_the_kernels_result() -> None:
    result = of(
        End.SUCCEEDED,
        Output("stream", name="stdout", text="out"),
        Output("stream", name="stderr", text="err"),
        value=[1],
        started_at=STARTED,
        ended_at=STARTED + timedelta(seconds=1.5),
    )
    assert (result.value, result.stdout, result.stderr, result.error) == ([1], "out", "err", None)
    assert (result.is_ok, result.success, result.execution_id) == (True, True, "run")
    assert (result.execution_time_ms, result.backend_info) == (1500, {"backend": "container"})
    assert isinstance(result, results.ExecutionResult)
    assert result.text == "outerr"


def test_a_failure_is_its_traceback_without_colours() -> None:
    lines = ["\x1b[31m----\x1b[0m", "\x1b[1mValueError\x1b[0m: bad\nworse"]
    result = of(End.FAILED, Output("error", ename="ValueError", evalue="bad\nworse", traceback=lines))
    assert result.error == "----\nValueError: bad\nworse"
    assert not result.is_ok
    assert result.text == "----\nValueError: bad\nworse\n"
    assert "error='worse'" in repr(result)


@pytest.mark.parametrize("lines", [[], ["only a frame"]])
def test_the_last_line_is_type_and_message_even_where_the_traceback_lacks_it(lines: list[str]) -> None:
    result = of(End.FAILED, Output("error", ename="ToolError", evalue="no", traceback=lines))
    assert (result.error or "").split("\n")[-1] == "ToolError: no"


INTERRUPT = Output("error", ename="KeyboardInterrupt", evalue="", traceback=["KeyboardInterrupt: "])


@pytest.mark.parametrize(
    ("end", "more", "said"),
    [
        (End.TIMED_OUT, {"timeout": 2}, "ExecutionTimeout: the code timed out after 2s"),
        (
            End.TIMED_OUT,
            {"timeout": 0.5, "end_reason": "kernel_restarted"},
            "timed out after 0.5s; its kernel had to be",
        ),
        (End.TIMED_OUT, {}, "ExecutionTimeout: the code timed out"),
        (End.INTERRUPTED, {}, "KeyboardInterrupt: the code was interrupted"),
        (End.INTERRUPTED, {"end_reason": "kernel_restarted"}, "kernel had to be restarted, and all variables are lost"),
        (End.CANCELLED, {"end_message": "somebody reset the kernel"}, "the code never ran: somebody reset the kernel"),
        (End.CANCELLED, {"end_reason": "kernel_restarted"}, "the code never ran: kernel_restarted"),
        (None, {}, "still runs"),
    ],
)
def test_an_end_that_is_no_exception_is_a_sentence(end: End | None, more: dict[str, Any], said: str) -> None:
    result = of(end, INTERRUPT, **more)
    assert said in (result.error or "")
    assert not result.is_ok


def test_a_lost_kernel_says_why() -> None:
    assert of(End.LOST, end_reason="oom").error == "KernelDied: the kernel ended: oom"
    result = of(End.LOST, end_reason="kernel_restarted", end_message="the kernel was restarted")
    assert result.error is not None
    assert result.error.startswith("KernelDied: the kernel was restarted; its kernel had to be restarted")


def test_a_failure_without_any_error_output_is_still_none_that_is_ok() -> None:
    assert "failed" in (of(End.FAILED).error or "")


def test_code_that_never_ran_says_exactly_why() -> None:
    result = ExecutionResult.refused("Session is closed", source="1")
    assert (result.error, result.is_ok, result.success, result.end) == (
        "Session is closed",
        False,
        False,
        End.CANCELLED,
    )
    assert (result.stdout, result.value, result.source) == ("", None, "1")


def test_a_run_without_a_kernel_has_outputs_as_one_with() -> None:
    result = ExecutionResult.of_run(
        "run", end=End.FAILED, stdout="out\n", stderr="err\n", error=Failure("E", "no", "Traceback\nE: no")
    )
    assert [output.output_type for output in result.outputs] == ["stream", "stream", "error"]
    assert result.text == "out\nerr\nTraceback\nE: no\n"
    assert "E: no" in result._repr_html_()
