"""A kernel for the scripted controller: runs cells with exec in one thread and tells what they show.

Cells see `print`, `warn` (stderr), `display(text, display_id=...)`, `update`, `clear_output`, and `gate(name)`,
which waits until the test opens that gate, the cell is interrupted, or its time is over.
"""

from __future__ import annotations

import ast
import json
import threading
import traceback
from collections.abc import Callable
from typing import Any

from cellyard_proto.v1 import executions_pb2 as pb
from cellyard_proto.v1 import outputs_pb2

Emit = Callable[[Any], None]


class Gates:
    """Where cells wait for the test."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.opened: set[str] = set()
        self.reached: set[str] = set()

    def open(self, name: str) -> None:
        """Lets cells through."""
        with self.changed:
            self.opened.add(name)
            self.changed.notify_all()

    def await_reached(self, name: str, timeout: float = 10) -> None:
        """Returns when a cell stands at the gate."""
        with self.changed:
            assert self.changed.wait_for(lambda: name in self.reached, timeout), f"no cell came to {name}"


class TimedOut(KeyboardInterrupt):
    """The interrupt of a cell whose time is over."""


class ScriptedKernel:
    """Runs one cell at a time."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self._namespace: dict[str, Any] = {}
        self._interrupted = False
        self._timeout: float | None = None
        self._emit: Emit = lambda _: None
        self.count = 0
        self.lost: str | None = None
        self._namespace.update(
            print=lambda *a, end="\n": self._stream("stdout", " ".join(map(str, a)) + end),
            warn=lambda text: self._stream("stderr", text),
            display=self._display,
            update=self._update,
            clear_output=lambda wait=False: self._emit(outputs_pb2.ClearOutput(wait=wait)),
            gate=self._gate,
        )

    def interrupt(self) -> None:
        """Interrupts the cell that stands at a gate, or will."""
        with self._gates.changed:
            self._interrupted = True
            self._gates.changed.notify_all()

    def lose(self, reason: str) -> None:
        """Ends the kernel under the running cell."""
        self.lost = reason
        self.interrupt()

    def run(self, source: str, timeout: float | None, emit: Emit) -> pb.Finished:
        """Runs a cell; what it shows goes to `emit`."""
        self.count += 1
        self._timeout, self._emit, self._interrupted = timeout, emit, False
        end, value = pb.EXECUTION_END_SUCCEEDED, None
        try:
            value = self._execute(source)
        except BaseException as error:  # whatever the cell raises is its result
            end = pb.EXECUTION_END_FAILED
            if isinstance(error, TimedOut):
                end = pb.EXECUTION_END_TIMED_OUT
            elif isinstance(error, KeyboardInterrupt):
                end = pb.EXECUTION_END_INTERRUPTED
            if self.lost is not None:
                return pb.Finished(end=pb.EXECUTION_END_LOST, end_reason=self.lost)
            name = "KeyboardInterrupt" if isinstance(error, KeyboardInterrupt) else type(error).__name__
            lines = traceback.format_exception_only(error)
            self._emit(
                outputs_pb2.Output(
                    error=outputs_pb2.ErrorOutput(ename=name, evalue=str(error), traceback=["".join(lines).rstrip()])
                )
            )
        finished = pb.Finished(end=end, execution_count=self.count, usage=pb.Usage(wall_s=0.01, cpu_s=0.01))
        if value is not None:
            finished.value.CopyFrom(_value(value))
        return finished

    def _execute(self, source: str) -> Any:
        module = ast.parse(source)
        last = module.body.pop() if module.body and isinstance(module.body[-1], ast.Expr) else None
        exec(compile(module, "<cell>", "exec"), self._namespace)
        if last is None:
            return None
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), self._namespace)
        if value is not None:
            data = {"text/plain": outputs_pb2.MimeValue(text=repr(value))}
            self._emit(
                outputs_pb2.Output(execute_result=outputs_pb2.ExecuteResult(data=data, execution_count=self.count))
            )
        return value

    def _stream(self, name: str, text: str) -> None:
        self._emit(outputs_pb2.Output(stream=outputs_pb2.StreamOutput(name=name, text=text)))

    def _display(self, text: str, display_id: str = "", mime: str = "text/plain") -> None:
        data = {mime: outputs_pb2.MimeValue(text=text)}
        self._emit(outputs_pb2.Output(display_data=outputs_pb2.DisplayData(data=data, display_id=display_id)))

    def _update(self, display_id: str, text: str) -> None:
        data = {"text/plain": outputs_pb2.MimeValue(text=text)}
        self._emit(outputs_pb2.DisplayUpdated(display_id=display_id, data=data))

    def _gate(self, name: str) -> None:
        gates = self._gates
        with gates.changed:
            gates.reached.add(name)
            gates.changed.notify_all()
            free = gates.changed.wait_for(lambda: name in gates.opened or self._interrupted, self._timeout)
            if not free:
                raise TimedOut
            if self._interrupted:
                raise KeyboardInterrupt


def _value(value: Any) -> outputs_pb2.Value:
    try:
        return outputs_pb2.Value(json=json.dumps(value))
    except TypeError:
        return outputs_pb2.Value(json=json.dumps(repr(value)), is_repr=True)
