"""Cells that run while something happens to what is below them."""

from __future__ import annotations

import time
from collections.abc import Callable

import cellyard
from tests.controller_process import Process

WITHIN = 90.0


class Running:
    """A notebook of its own with a kernel, and a cell in it that does not end by itself."""

    def __init__(self, process: Process, name: str) -> None:
        self.session = cellyard.Session(notebook_id=name, endpoint=process.endpoint)
        known = {each.id for each in process.containers()}
        self.session.run("born = object()")
        (self.container,) = [each for each in process.containers() if each.id not in known]
        self.identity = self.session.run("id(born)").value
        stream = self.session.stream_execute(code="import time\ntime.sleep(100_000)", timeout_secs=None)
        self.execution_id = next(each for each in stream if isinstance(each, cellyard.Started)).execution_id

    def end(self) -> tuple[str, str]:
        """Waits for the cell's end: what it is, and the reason."""
        result = self.session.wait(self.execution_id, WITHIN)
        assert result.error is not None
        return result.end, result.error.evalue

    def same_kernel(self) -> bool:
        """Interrupts the cell; whether the kernel is the one of the beginning."""
        self.session.interrupt()
        assert self.session.wait(self.execution_id, WITHIN).end == "interrupted"
        return bool(self.session.run("id(born)").value == self.identity)


def until(happened: Callable[[], object]) -> None:
    """Looks again and again: what an engine has done shows by itself only."""
    give_up = time.monotonic() + WITHIN
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.1)
