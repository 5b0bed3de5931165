"""IPython's kernel as the agent needs it. Runs in the kernel.

What differs from ipykernel: its sockets drop nothing, interrupts hit the cell or nobody, results carry their
value as data, text of a thread belongs to the cell that started it, and nothing runs that nobody needs here
(heartbeat, history on disk, debugger).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import zmq
from ipykernel import zmqshell
from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core import page
from jupyter_client.jsonutil import json_default
from traitlets.config import Config

from cellyard_proto.codemode import frames
from cellyard_sandbox import paging, values
from cellyard_sandbox.asked import answer
from cellyard_sandbox.python_kernel import told
from cellyard_sandbox.threads import let_threads_write_to_their_cell


def pack(message: Any) -> bytes:
    """JSON of a message. Lone surrogates stay: no reply may fail for them, and the agent replaces them."""
    text = json.dumps(message, default=json_default, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


class DisplayHook(ZMQShellDisplayHook):  # type: ignore[misc]
    """Adds to each result its value as data."""

    _result: Any = None
    _text: str = ""

    def update_user_ns(self, result: Any) -> None:
        """Called with each result."""
        super().update_user_ns(result)
        self._result = result

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Called with a result's representations, where it has any."""
        super().write_format_data(format_dict, md_dict)
        self._text = format_dict.get("text/plain", "")

    def finish_displayhook(self) -> None:
        """Called last: sends."""
        if self.msg is not None:
            content = self.msg["content"]
            content["data"] = {**content["data"], values.MIME: values.encode(self._result, self._text)}
        self._result, self._text = None, ""
        super().finish_displayhook()


class ZMQInteractiveShell(zmqshell.ZMQInteractiveShell):  # type: ignore[misc]
    """Shows an interrupted `await` as what it is. Libraries look for the name."""

    displayhook_class = DisplayHook
    interrupted = False

    def init_ipython_dir(self, ipython_dir: str | None) -> None:
        """Called at the start; without a folder given, IPython would make one in the home."""
        super().init_ipython_dir(ipython_dir or self.parent.parent.ipython_dir)

    def init_hooks(self) -> None:
        """Called at the start."""
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(paging.shows(self)), 98)  # before ipykernel's own

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


class Kernel(IPythonKernel):  # type: ignore[misc]
    """Takes SIGINT while a cell runs, and only then; whatever happens, a request is answered."""

    shell_class = ZMQInteractiveShell
    _execute_sleep = 0
    _supports_kernel_subshells = False

    def pre_handler_hook(self) -> None:
        """ipykernel would take SIGINT from here on, when no cell runs yet."""

    def post_handler_hook(self) -> None:
        """See pre_handler_hook."""

    async def poll_stopped_queue(self) -> None:
        """ipykernel asks its debugger here; there is none."""

    async def do_execute(self, code: str, silent: bool, *args: Any, **options: Any) -> dict[str, Any]:
        """Runs a cell, once it was told that it runs."""
        self._wait_for_iopub()
        if self.get_parent().get("content", {}).get("namespaces") is True:
            from cellyard_sandbox import codemode  # late: other kernels need none of it

            codemode.provide(self.shell.user_ns, self.shell.user_ns_hidden)
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                try:
                    return await super().do_execute(code, silent, *args, **options)  # type: ignore[no-any-return]
                finally:
                    signal.signal(signal.SIGINT, signal.SIG_IGN)
            except KeyboardInterrupt as interrupt:
                # It came before or after the cell's own code, where IPython does not expect it.
                return self._interrupted(interrupt)
        except KeyboardInterrupt as interrupt:  # again, before it was ignored
            return self._interrupted(interrupt)

    def _interrupted(self, interrupt: KeyboardInterrupt) -> dict[str, Any]:
        """Shows it; the reply of a cell that ends by it."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.shell.showtraceback()
        return {
            "status": "error",
            "ename": type(interrupt).__name__,
            "evalue": str(interrupt),
            "traceback": [],
            "execution_count": self.shell.execution_count - 1,
            "user_expressions": {},
            "payload": [],
        }

    def _input_request(self, *args: Any, **options: Any) -> str:
        sys.stdout.flush()
        sys.stderr.flush()
        self._wait_for_iopub()  # a flush under way in its thread may have taken text that it has not sent
        return super()._input_request(*args, **options)  # type: ignore[no-any-return]

    def _wait_for_iopub(self) -> None:
        """Returns once everything that was to be published until now has been sent."""
        sent = threading.Event()
        self.iopub_thread.schedule(sent.set)
        sent.wait()

    async def do_complete(self, code: str, cursor_pos: int | None) -> dict[str, Any]:
        """Says what could stand there."""
        return answer(lambda: super(Kernel, self).do_complete(code, cursor_pos))

    async def do_inspect(self, code: str, cursor_pos: int, *args: Any, **options: Any) -> dict[str, Any]:
        """Says what is known of the name there."""
        return answer(lambda: super(Kernel, self).do_inspect(code, cursor_pos, *args, **options))

    async def do_history(self, hist_access_type: str, output: bool, raw: bool, **options: Any) -> dict[str, Any]:
        """Says what ran."""
        options |= {"hist_access_type": hist_access_type, "output": output, "raw": raw}
        return answer(lambda: told.history(self.shell, **options))

    @contextlib.contextmanager
    def _cancel_on_sigint(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """While a cell with `await` runs: SIGINT cancels it where it waits, interrupts it where it computes.

        ipykernel only cancels, so that a loop without an await goes on for ever.
        """
        run_code = type(self.shell).run_code.__code__

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.shell.interrupted = True
            above = frame.f_back if frame is not None else None
            while above is not None:
                if above.f_code is run_code:
                    raise KeyboardInterrupt  # the cell's own code is on the stack, and IPython below it
                above = above.f_back
            self.io_loop.asyncio_loop.call_soon_threadsafe(future.cancel)

        self.shell.interrupted = False
        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _NoThread:
    """Stands where ipykernel has the thread of the shell channel: none, yet it asks who that one's parent is."""

    parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False


class KernelApp(IPKernelApp):  # type: ignore[misc]
    """Starts the kernel."""

    kernel_class = Kernel
    outstream_class = "cellyard_sandbox.streams.CellStream"

    def _ipython_dir_default(self) -> str:
        folder = Path(self.connection_file).with_name("ipython")  # the home is the user's alone
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder)

    def load_config_file(self, *args: Any, **options: Any) -> None:
        """The configuration is what stands here; the home may hold none."""
        self.update_config(
            Config(
                HistoryManager={"enabled": False},
                # The first completion would take two seconds and 30 MB; %config IPCompleter.use_jedi = True has it.
                IPCompleter={"use_jedi": False},
                Session={"packer": "cellyard_sandbox.ipython.pack", "key": b""},
            )
        )

    def init_path(self) -> None:
        """Lets cells import modules of the user's own; last, so that none of them stands in for another."""
        sys.path.append("")

    def init_sockets(self) -> None:
        """Opens the channels."""
        super().init_sockets()
        # A question that would reach nobody is an error in the cell, rather than an endless wait for the answer.
        self.stdin_socket.setsockopt(zmq.ROUTER_MANDATORY, 1)

    def init_heartbeat(self) -> None:
        """The agent is the kernel's parent: it needs no heartbeat."""

    def init_control(self, context: Any) -> None:
        """Opens the control channel, without the thread that shares the shell channel among subshells."""
        super().init_control(context)
        self.shell_channel_thread = _NoThread()  # a cell starts a millisecond earlier, on the main thread

    def init_kernel(self) -> None:
        """Creates the kernel."""
        super().init_kernel()
        let_threads_write_to_their_cell(self.kernel.shell)

    def _bind_socket(self, socket: Any, port: int) -> Any:
        socket.set_hwm(0)  # nothing is dropped; the agent always reads
        return super()._bind_socket(socket, port)


@contextlib.contextmanager
def _sigint_ignored() -> Iterator[None]:
    """For showing that an interrupt has come: its repetitions must not cut that short."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
