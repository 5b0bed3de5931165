"""What a thread shows goes to the cell that started it, also when another one runs by then. Runs in the kernel."""

from __future__ import annotations

import threading
from typing import Any


def let_threads_write_to_their_cell(shell: Any) -> None:
    """Makes it so, for whatever starts threads from now on."""
    start = threading.Thread.start

    def start_for_cell(thread: threading.Thread) -> None:
        header = shell.get_parent().get("header")
        own = vars(thread).get("run")
        run = thread.run

        def restore() -> None:
            vars(thread).pop("run", None)
            if own is not None:
                vars(thread)["run"] = own

        def run_for_cell() -> None:
            restore()
            shell.set_thread_parent({"header": header})
            run()

        if header:
            vars(thread)["run"] = run_for_cell
        try:
            start(thread)
        except BaseException:
            restore()
            raise

    threading.Thread.start = start_for_cell  # type: ignore[assignment,method-assign]
