"""What shows objects: the hook for results, and display()."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher

from cellyard_sandbox import values
from cellyard_sandbox.python_kernel.connection import Connection, frame
from cellyard_sandbox.python_kernel.parents import Parents

Hook = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Takes a message on its way out and returns it, or another one, or None: then nothing is sent."""


class Outlet:
    """Sends displays, past the hooks of this thread."""

    def __init__(self, connection: Connection, parents: Parents) -> None:
        self._connection = connection
        self._parents = parents
        self._own = threading.local()

    def hooks(self) -> list[Hook]:
        """Those of the calling thread."""
        hooks: list[Hook] | None = getattr(self._own, "hooks", None)
        if hooks is None:
            hooks = self._own.hooks = []
        return hooks

    def send(self, kind: str, content: dict[str, Any], value: values.Encoded | None = None) -> None:
        """Sends what was shown, after all text that was written before. `value`: of a result, for the agent alone."""
        if sys.stdout is not None:
            sys.stdout.flush()
        if sys.stderr is not None:
            sys.stderr.flush()
        parent = self._parents.current()
        for hook in list(self.hooks()):
            message = {"header": {"msg_type": kind}, "msg_type": kind, "content": content, "metadata": {}}
            left = hook({**message, "parent_header": parent.message.get("header", {})})
            if left is None:
                return
            content = left["content"]
        if value is not None:
            content = {**content, "data": {**content["data"], values.MIME: value}}
        if self._connection.open:
            self._connection.send(frame(kind, parent.msg_id, content))
        elif "text/plain" in content.get("data", {}):
            print(content["data"]["text/plain"])  # a forked process, which has its stdout only


class ResultHook(DisplayHook):  # type: ignore[misc]
    """sys.displayhook of a cell: sends results, each with its value as data."""

    message: dict[str, Any] | None = None
    """The content of the message that is being made."""
    _result: Any = None

    def start_displayhook(self) -> None:
        """Called first."""
        self.message = {"data": {}, "metadata": {}}

    def write_output_prompt(self) -> None:
        """Called with each result."""
        if self.message is not None:
            self.message["execution_count"] = self.prompt_count

    def update_user_ns(self, result: Any) -> None:
        """Likewise."""
        super().update_user_ns(result)
        self._result = result

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Called with a result's representations, where it has any."""
        if self.message is not None:
            self.message |= {"data": format_dict, "metadata": md_dict or {}}

    def finish_displayhook(self) -> None:
        """Called last: sends."""
        content, result = self.message, self._result
        self.message = self._result = None
        if content and content["data"]:
            value = values.encode(result, content["data"].get("text/plain", ""))
            self.shell.outlet.send("execute_result", content, value)
        else:
            sys.stdout.flush()
            sys.stderr.flush()

    def register_hook(self, hook: Hook) -> None:
        """Lets a hook see what this thread shows."""
        self.shell.outlet.hooks().append(hook)

    def unregister_hook(self, hook: Hook) -> bool:
        """False where it was not registered."""
        return _removed(self.shell.outlet.hooks(), hook)


class Publisher(DisplayPublisher):  # type: ignore[misc]
    """What display() and clear_output() end in."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        """Shows representations, or changes the display of the id that `transient` names."""
        self._validate_data(data, metadata)
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        self.shell.outlet.send("update_display_data" if update else "display_data", content)

    def clear_output(self, wait: bool = False) -> None:
        """Clears what the cell has shown; with `wait`, as soon as it shows something else."""
        self.shell.outlet.send("clear_output", {"wait": wait})

    def register_hook(self, hook: Hook) -> None:
        """Lets a hook see what this thread shows."""
        self.shell.outlet.hooks().append(hook)

    def unregister_hook(self, hook: Hook) -> bool:
        """False where it was not registered."""
        return _removed(self.shell.outlet.hooks(), hook)


def _removed(hooks: list[Hook], hook: Hook) -> bool:
    if hook not in hooks:
        return False
    hooks.remove(hook)
    return True
