"""IPython's shell for a kernel without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from IPython.core import page
from IPython.core.autocall import ZMQExitAutocall
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell, InteractiveShellABC
from traitlets import Any as AnyTrait
from traitlets import CBool, Instance, Type, default

from cellyard_proto.codemode import frames
from cellyard_sandbox import paging
from cellyard_sandbox.python_kernel import magics
from cellyard_sandbox.python_kernel.connection import frame
from cellyard_sandbox.python_kernel.display import Outlet, Publisher, ResultHook
from cellyard_sandbox.python_kernel.parents import Parent

if TYPE_CHECKING:
    from cellyard_sandbox.python_kernel.kernel import Kernel


class ZMQInteractiveShell(InteractiveShell):  # type: ignore[misc]
    """The shell. By its name libraries know that they are in a notebook."""

    displayhook_class = Type(ResultHook)
    display_pub_class = Type(Publisher)
    kernel = AnyTrait()
    outlet = AnyTrait()
    readline_use = CBool(False)
    autoindent = CBool(False)
    exiter = Instance(ZMQExitAutocall)
    keepkernel_on_exit = None
    interrupted = False
    """An interrupt has cancelled the cell's `await`."""

    def __init__(self, kernel: Kernel, **options: Any) -> None:
        outlet = Outlet(kernel.connection, kernel.parents)
        super().__init__(kernel=kernel, outlet=outlet, **options)
        self.tell_errors_while_showing = False
        self._last_traceback: list[str] | None = None
        self._warming_up = False

    @default("exiter")
    def _default_exiter(self) -> ZMQExitAutocall:
        return ZMQExitAutocall(self)

    def warm_up(self) -> None:
        """Loads what a first cell would have to wait for. Leaves no trace that a cell could see."""
        self.run_cell("None", store_history=False)
        self.display_formatter.format(0)

    def warm_up_errors(self) -> None:
        """Likewise for the first error, which takes ten times as long."""
        self._warming_up = True
        try:
            self.run_cell("raise Exception", store_history=False)
        finally:
            self._warming_up = False
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)

    def start_cell(self) -> None:
        """Forgets what the last cell's end was told by."""
        self._last_traceback = None
        self.tell_errors_while_showing = False
        self.displayhook.message = None

    # The cell that runs, as libraries ask for it

    def get_parent(self) -> dict[str, Any]:
        """The request that what is shown here and now belongs to."""
        return self.kernel.parents.current().message  # type: ignore[no-any-return]

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Changes that."""
        self.kernel.parents.set(Parent(parent))

    def set_thread_parent(self, parent: dict[str, Any]) -> Any:
        """Changes it for this task or thread; the result undoes that."""
        return self.kernel.parents.set_here(Parent(parent))

    def reset_thread_parent(self, token: Any) -> None:
        """Undoes it."""
        self.kernel.parents.reset(token)

    @property
    def parent_header(self) -> dict[str, Any]:
        """As get_parent."""
        return self.get_parent()

    # Errors

    def showtraceback(
        self,
        exc_tuple: tuple[type[BaseException], BaseException, TracebackType | None] | None = None,
        *args: Any,
        **options: Any,
    ) -> None:
        """Shows an exception; without one given, that under way."""
        kind, value, trace = self._get_exc_info(exc_tuple)
        if self.interrupted and issubclass(kind, asyncio.CancelledError):
            kind, value = KeyboardInterrupt, KeyboardInterrupt()
        heard = issubclass(kind, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
        with _sigint_ignored() if heard else contextlib.nullcontext():
            super().showtraceback((kind, value, frames.own(trace)), *args, **options)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        """Sends what showtraceback and its likes have made."""
        if self._warming_up:
            return
        if self.displayhook.message is not None:
            self.tell_errors_while_showing = True  # it came from what shows the result
        content = {"traceback": stb, "ename": str(etype.__name__), "evalue": str(evalue)}
        sys.stdout.flush()
        sys.stderr.flush()
        self.kernel.connection.send(frame("error", self.kernel.parents.current().msg_id, content))
        self._last_traceback = stb

    # What a terminal would do

    def _tee(self, channel: str) -> contextlib.AbstractContextManager[None]:
        """IPython would keep all text that a cell writes, for %notebook."""
        return contextlib.nullcontext()

    def enable_gui(self, gui: str | None = None) -> None:
        """Called by %matplotlib and %gui."""
        if gui is not None:
            raise UsageError(f"there is no display here that the event loop of {gui!r} could serve")
        self.active_eventloop = None

    def init_environment(self) -> None:
        """Called at the start. Programs shall use colours, and no pagers, as in other notebooks."""
        os.environ.update(
            TERM="xterm-color",
            CLICOLOR="1",
            FORCE_COLOR="1",
            CLICOLOR_FORCE="1",
            PAGER="cat",
            GIT_PAGER="cat",
        )

    def init_virtualenv(self) -> None:
        """Called at the start. The kernel's environment is what it is."""

    def init_hooks(self) -> None:
        """Called at the start."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(paging.shows(self)), 99)

    def init_magics(self) -> None:
        """Likewise."""
        super().init_magics()
        magics.register(self)

    def ask_exit(self) -> None:
        """Called by exit() and quit()."""
        self.exit_now = not self.keepkernel_on_exit
        self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": self.keepkernel_on_exit})

    def set_next_input(self, text: str, replace: bool = False) -> None:
        """Called by magics that propose a next cell."""
        self.payload_manager.write_payload({"source": "set_next_input", "text": text, "replace": replace})


InteractiveShellABC.register(ZMQInteractiveShell)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """For showing that an interrupt has come: its repetitions must not cut that short."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
