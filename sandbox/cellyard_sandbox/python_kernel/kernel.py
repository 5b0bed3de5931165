"""The kernel: takes requests from the agent, on an event loop that cells share, and runs one cell at a time."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import functools
import getpass
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from IPython.core.async_helpers import _asyncio_runner
from IPython.core.completer import provisionalcompleter, rectify_completions
from IPython.utils.tokenutil import token_at_cursor
from traitlets.config import Config

from cellyard_sandbox.asked import answer
from cellyard_sandbox.python_kernel import told
from cellyard_sandbox.python_kernel.comms import Comms
from cellyard_sandbox.python_kernel.connection import Closed, Connection, Request, frame
from cellyard_sandbox.python_kernel.interrupts import Interrupts, raise_interrupt
from cellyard_sandbox.python_kernel.parents import Parent, Parents
from cellyard_sandbox.python_kernel.questions import REPLY, Questions
from cellyard_sandbox.python_kernel.shell import ZMQInteractiveShell
from cellyard_sandbox.threads import let_threads_write_to_their_cell

_AT_LEISURE_S = 0.5
"""A kernel that nobody has used for so long after its start gets ready for what is rarer than a cell."""
_COMMS = frozenset({"comm_open", "comm_msg", "comm_close"})


class Kernel:
    """`get_ipython().kernel`. Belongs to the main thread."""

    def __init__(self, connection: Connection, parents: Parents, interrupts: Interrupts, ipython_folder: str) -> None:
        """`ipython_folder`: for what IPython would keep in the home, which is the user's alone."""
        self.connection = connection
        self.parents = parents
        self._interrupts = interrupts
        self._pid = os.getpid()
        self._ended = False
        self._cell: asyncio.Task[None] | None = None  # the loop itself keeps no task from being collected
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        # Cells see each other's context variables (decimal.getcontext(), for one), as lines of one program do.
        self._context = contextvars.copy_context()
        self._questions = Questions(connection, parents, interrupts, self._post)
        builtins.input = self._questions.input
        getpass.getpass = self._questions.getpass
        self.comms = Comms(self)
        self.comms.install()
        self.comm_manager = self.comms.manager
        """As ipykernel's kernels have it."""
        self.log = logging.getLogger("cellyard.kernel")
        """Likewise."""
        self.shell = ZMQInteractiveShell.instance(
            kernel=self,
            ipython_dir=ipython_folder,
            config=Config(
                HistoryManager={"enabled": False},
                # The first completion would take two seconds and 30 MB; %config IPCompleter.use_jedi = True has it.
                IPCompleter={"use_jedi": False},
                IPKernelApp={"name": "cellyard"},  # by which libraries know that they are in a notebook
            ),
        )
        self.shell.extension_manager.load_extension("storemagic")
        let_threads_write_to_their_cell(self.shell)
        self._at_leisure: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Serves until exit() or the agent's end."""
        self._interrupts.ignore()
        self.shell.warm_up()
        self._at_leisure = self._loop.call_later(_AT_LEISURE_S, self.shell.warm_up_errors)
        self._loop.add_reader(self.connection.fileno(), self._read)
        while not self._ended:  # a cell may have stopped the loop, too
            try:
                self._loop.run_forever()
            except KeyboardInterrupt:
                pass  # in the cell's `await`, where IPython did not expect it: the cell has ended by it

    def get_parent(self, channel: str | None = None) -> dict[str, Any]:
        """The request that what is shown here and now belongs to."""
        return self.parents.current().message

    def set_parent(self, ident: Any, parent: dict[str, Any], channel: str = "shell") -> None:
        """Changes that."""
        self.parents.set(Parent(parent))

    @property
    def execution_count(self) -> int:
        """The number of the next cell."""
        count: int = self.shell.execution_count
        return count

    # Requests

    def _read(self) -> None:
        try:
            requests = self.connection.receive()
        except Closed:
            self._end()
            return
        for request in requests:
            if request.kind == REPLY:
                self._questions.answered(request)
            else:
                self._start(request)

    def _end(self) -> None:
        self._ended = True
        self._loop.stop()

    def _post(self, request: Request) -> None:
        self._loop.call_soon_threadsafe(self._start, request)

    def _start(self, request: Request) -> None:
        """Everything is done in the order in which it came, and not before the code that runs gives way."""
        if request.kind == "execute_request":
            if self._at_leisure is not None:
                self._at_leisure.cancel()
                self._at_leisure = None
            self._cell = self._loop.create_task(self._execute(request), context=self._context)
        else:
            self._loop.call_soon(self._serve, request)

    def _serve(self, request: Request) -> None:
        if request.kind in _COMMS:
            self._hear_comm(request)
        elif request.kind == "environment_request":
            os.environ.update(request.content.get("env", {}))
        elif request.kind == "kernel_info_request":
            status = frame("status", request.msg_id, {"execution_state": "idle"})
            self.connection.send(frame("kernel_info_reply", request.msg_id, told.info()), status)
        elif request.kind == "complete_request":
            self._answer(request, self._complete)
        elif request.kind == "inspect_request":
            self._answer(request, self._inspect)
        elif request.kind == "history_request":
            self._answer(request, functools.partial(told.history, self.shell))
        elif request.kind == "is_complete_request":
            self._answer(request, functools.partial(told.is_complete, self.shell))

    def _hear_comm(self, request: Request) -> None:
        latest = self.parents.latest
        self.parents.set(Parent(_message(request)))
        try:
            getattr(self.comm_manager, request.kind)(None, None, _message(request))
        except (Exception, SystemExit):  # code that a widget calls must not end what it belongs to
            self.log.exception("a %s failed", request.kind)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            self.parents.latest = latest

    # Cells

    async def _execute(self, request: Request) -> None:
        msg_id = request.msg_id
        self.parents.set(Parent(_message(request)))
        count = {"execution_count": self.shell.execution_count}
        self.connection.send(
            frame("status", msg_id, {"execution_state": "busy"}), frame("execute_input", msg_id, count)
        )
        self._questions.allowed = request.content.get("allow_stdin") is True
        try:
            if request.content.get("namespaces") is True:
                from cellyard_sandbox import codemode  # late: other kernels need none of it

                codemode.provide(self.shell.user_ns, self.shell.user_ns_hidden)
            reply = await self._run_interruptible(str(request.content.get("code", "")), _how(request.content))
        except BaseException as failed:  # whatever it is, there is an answer
            reply = self._error(failed)
        self._questions.allowed = False
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the cell may have put anything there
                stream.flush()
        if os.getpid() != self._pid:
            os._exit(0)  # a process that the cell has forked and that has come to the cell's end
        idle = frame("status", msg_id, {"execution_state": "idle"})
        self.connection.send(frame("execute_reply", msg_id, reply), idle)
        if self.shell.exit_now:
            self._end()

    async def _run_interruptible(self, code: str, how: _How) -> dict[str, Any]:
        """Takes SIGINT while the cell runs, and only then."""
        try:
            self._interrupts.take()
            try:
                return await self._run(code, how)
            finally:
                self._interrupts.ignore()
        except KeyboardInterrupt as interrupt:
            # It came before or after the cell's own code, where IPython does not expect it.
            self._interrupts.ignore()
            self.shell.showtraceback()
            return self._error(interrupt)

    async def _run(self, code: str, how: _How) -> dict[str, Any]:
        shell = self.shell
        shell.start_cell()
        transformed, bad = code, None
        try:
            transformed = shell.transform_cell(code)
        except Exception:  # of a transformer of the user's own; IPython shows it
            bad = sys.exc_info()
        prepared = {"transformed_cell": transformed, "preprocessing_exc_tuple": bad}
        result = None
        try:
            may_wait = "await" in transformed or "async" in transformed  # else it need not be compiled to find out
            waits = may_wait and shell.should_run_async(code, **prepared)
            if waits and (shell.trio_runner or shell.loop_runner is not _asyncio_runner):
                # %autoawait has another event loop
                result = shell.run_cell(code, store_history=how.store_history, silent=how.silent)
                return self._reply(result, how)
            cell = shell.run_cell_async(code, store_history=how.store_history, silent=how.silent, **prepared)
            try:
                if waits:
                    future = asyncio.ensure_future(cell)
                    with self._cancel_on_interrupt(future):
                        result = await future
                else:
                    try:
                        cell.send(None)
                    except StopIteration as end:
                        result = end.value
            finally:
                shell.events.trigger("post_execute")
                if not how.silent:
                    shell.events.trigger("post_run_cell", result)
            return self._reply(result, how)
        finally:
            shell.payload_manager.clear_payload()

    @contextlib.contextmanager
    def _cancel_on_interrupt(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """While a cell with `await` runs: SIGINT cancels it where it waits, interrupts it where it computes."""
        run_code = type(self.shell).run_code.__code__

        def interrupt(frame: FrameType | None) -> None:
            self.shell.interrupted = True
            above = frame.f_back if frame is not None else None
            while above is not None:
                if above.f_code is run_code:
                    raise_interrupt(frame)  # the cell's own code is on the stack, and IPython below it
                above = above.f_back
            self._loop.call_soon_threadsafe(future.cancel)

        self.shell.interrupted = False
        self._interrupts.take(interrupt)
        try:
            yield
        finally:
            self._interrupts.take()

    def _reply(self, result: Any, how: _How) -> dict[str, Any]:
        if result is None:
            return self._error(RuntimeError("the cell did not end"))
        if result.success and not self.shell.tell_errors_while_showing:
            reply = {"status": "ok", "execution_count": self.shell.execution_count - 1}
            if how.user_expressions:
                reply["user_expressions"] = self.shell.user_expressions(how.user_expressions)
            if how.payload:
                reply["payload"] = self.shell.payload_manager.read_payload()
            return reply
        error = result.error_before_exec if result.error_before_exec is not None else result.error_in_exec
        return self._error(error)

    def _error(self, error: BaseException | None) -> dict[str, Any]:
        try:
            text = str(error)
        except Exception:  # __str__ is the cell's own code
            text = ""
        return {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": text,
            "traceback": self.shell._last_traceback or [],
            "execution_count": self.shell.execution_count - 1,
        }

    # Beside the cells

    def _answer(self, request: Request, ask: Any) -> None:
        content = answer(lambda: ask(**request.content))
        self.connection.send(frame(request.kind.replace("_request", "_reply"), request.msg_id, content))

    def _complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        with provisionalcompleter():
            found = list(rectify_completions(code, self.shell.Completer.completions(code, cursor_pos)))
        kinds = [
            {"start": each.start, "end": each.end, "text": each.text, "type": each.type, "signature": each.signature}
            for each in found
        ]
        return {
            "status": "ok",
            "matches": [each.text for each in found],
            "cursor_start": found[0].start if found else cursor_pos,
            "cursor_end": found[0].end if found else cursor_pos,
            "metadata": {"_jupyter_types_experimental": kinds},
        }

    def _inspect(self, code: str, cursor_pos: int, detail_level: int = 0) -> dict[str, Any]:
        name = token_at_cursor(code, cursor_pos)
        try:
            data = self.shell.object_inspect_mime(name, detail_level=detail_level)
        except KeyError:
            return {"status": "ok", "found": False, "data": {}, "metadata": {}}
        if not self.shell.enable_html_pager:
            data.pop("text/html", None)
        return {"status": "ok", "found": True, "data": data, "metadata": {}}


@dataclass(frozen=True, slots=True)
class _How:
    silent: bool
    store_history: bool
    user_expressions: dict[str, str]
    payload: bool


def _how(content: dict[str, Any]) -> _How:
    """How a cell is to be run."""
    return _How(
        silent=content.get("silent") is True,
        store_history=content.get("store_history") is not False,
        user_expressions=content.get("user_expressions") or {},
        payload=content.get("payload") is True,
    )


def _message(request: Request) -> dict[str, Any]:
    """The request in Jupyter's form, for libraries that look at it."""
    header = {"msg_id": request.msg_id, "msg_type": request.kind, "session": "agent", "username": "agent"}
    return {
        "header": {**header, "version": "5.4"},
        "msg_id": request.msg_id,
        "msg_type": request.kind,
        "parent_header": {},
        "metadata": request.metadata,
        "content": request.content,
        "buffers": request.buffers,
    }
