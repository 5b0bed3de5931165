"""An interrupt that comes where neither the cell nor IPython expects it, and is repeated at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ipykernel.ipkernel import IPythonKernel

from cellyard_sandbox import ipython


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("repeated", [0, 1])
async def test_the_cell_has_an_answer_all_the_same(monkeypatch: pytest.MonkeyPatch, repeated: int) -> None:
    left = [KeyboardInterrupt() for _ in range(repeated)]

    def show() -> None:
        if left:
            raise left.pop()

    async def execute(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(IPythonKernel, "do_execute", execute)
    monkeypatch.setattr(ipython.Kernel, "_wait_for_iopub", lambda self: None)
    monkeypatch.setattr(ipython.Kernel, "get_parent", lambda self: {})
    monkeypatch.setattr(ipython.Kernel, "shell", SimpleNamespace(showtraceback=show, execution_count=2))
    kernel = ipython.Kernel.__new__(ipython.Kernel)
    reply = await kernel.do_execute("while True: pass", False)
    assert (reply["status"], reply["ename"], reply["execution_count"]) == ("error", "KeyboardInterrupt", 1)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
