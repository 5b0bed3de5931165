"""What a notebook's widgets show: followed from the messages of their comms, kept for the exported notebook.

The rules are those by which notebooks are saved with widgets: a message's `state` is merged into its comm's, buffers
by their path; what has no model is no widget and not kept.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Connection, delete, select

from cellyard_controller.executions.live import LiveExecution
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import NotebookKey
from cellyard_controller.notebooks.kernel import Kernel
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.watchers import Watchers
from cellyard_controller.store import Store
from cellyard_controller.store.dialects import insert
from cellyard_controller.store.schema import widgets

_TARGET = "jupyter.widget"
STATE_MIME = "application/vnd.jupyter.widget-state+json"
MAX_WIDGETS = 2_000
"""Comms of one kernel whose state is followed; later ones work, and are not saved."""
MAX_STATE = 4 * 1024 * 1024
"""Characters of one comm's state as JSON; a larger one is not saved."""


@dataclass(slots=True)
class _Model:
    state: dict[str, Any]
    buffers: list[dict[str, Any]] = field(default_factory=list)

    def merge(self, said: CommSaid) -> bool:
        """Takes a message in; False where it changes nothing."""
        state = said.data.get("state")
        if not isinstance(state, dict):
            return False
        self.state |= state
        paths = said.data.get("buffer_paths")
        if isinstance(paths, list):
            for path, content in zip(paths, said.buffers, strict=False):
                self.buffers = [known for known in self.buffers if known["path"] != path]
                self.buffers.append({"path": path, "encoding": "base64", "data": base64.b64encode(content).decode()})
        return True

    def saved(self) -> dict[str, Any]:
        """As a saved notebook has it."""
        shown: dict[str, Any] = {
            "model_name": self.state.get("_model_name"),
            "model_module": self.state.get("_model_module"),
            "model_module_version": self.state.get("_model_module_version"),
            "state": self.state,
        }
        if self.buffers:
            shown["buffers"] = self.buffers
        return shown


class Widgets:
    """The widgets of one room. Used by the room's task alone."""

    def __init__(
        self, notebook: NotebookKey, *, store: Store, kernel: Kernel, ledger: Ledger, watchers: Watchers
    ) -> None:
        self._notebook = notebook
        self._store, self._kernel, self._ledger, self._watchers = store, kernel, ledger, watchers
        self._models: dict[str, _Model] | None = None
        self._of = ""  # the kernel that they live in
        self._changed: dict[str, None] = {}

    async def said(self, said: CommSaid, live: LiveExecution | None = None) -> None:
        """A comm's message from the kernel. It is stored with the next commit, and told to whoever watches.

        `live`: the execution that it belongs to, among whose events it has its place.
        """
        await self.moved(said)
        size = len(str(said.data)) + sum(map(len, said.buffers)) if self._watchers.anybody else 0
        tell = partial(self._watchers.tell, said, size)
        if live is None:
            self._ledger.kept.done.append(tell)
        else:
            live.between(tell)

    async def moved(self, said: CommSaid) -> None:
        """A comm's message, from the kernel or from a front end."""
        models = await self._load()
        if said.kind == "open":
            if self._of != self._kernel_name():
                models.clear()
                self._of = self._kernel_name()
                self._ledger.kept.rows.append(partial(_forget, self._notebook))
            if len(models) >= MAX_WIDGETS:
                return
            models[said.comm_id] = _Model({})
        model = models.get(said.comm_id)
        if model is not None and model.merge(said) and said.comm_id not in self._changed:
            self._changed[said.comm_id] = None
            self._ledger.kept.rows.append(partial(self._write, said.comm_id))

    async def open(self) -> list[CommSaid]:
        """The running kernel's widgets, as if each were opened now."""
        models = await self._load()
        if not self._kernel.running or self._of != self._kernel_name():
            return []
        return [
            CommSaid(
                comm_id=name,
                kind="open",
                data={"state": dict(model.state), "buffer_paths": [each["path"] for each in model.buffers]},
                target_name=_TARGET,
                buffers=tuple(base64.b64decode(each["data"]) for each in model.buffers),
            )
            for name, model in models.items()
            if "_model_name" in model.state
        ]

    async def saved(self) -> dict[str, Any] | None:
        """The widgets' state as a saved notebook has it in its metadata; None without widgets."""
        state = {name: model.saved() for name, model in (await self._load()).items() if "_model_name" in model.state}
        return {STATE_MIME: {"state": state, "version_major": 2, "version_minor": 0}} if state else None

    # Inside

    async def _load(self) -> dict[str, _Model]:
        if self._models is None:
            rows = await self._store.read(partial(_stored, self._notebook))
            self._models = {name: _Model(**json.loads(state)) for name, _, state in rows}
            self._of = rows[0][1] if rows else ""
        return self._models

    def _kernel_name(self) -> str:
        sandbox = self._kernel.sandbox
        return f"{sandbox.sandbox_id if sandbox is not None else ''}/{self._kernel.generation}"

    def _write(self, comm_id: str, connection: Connection) -> None:
        """Runs in the store's thread. What changes meanwhile is written again."""
        self._changed.pop(comm_id, None)
        model = (self._models or {}).get(comm_id)
        if model is None:
            return
        state = json.dumps({"state": model.state, "buffers": model.buffers}, separators=(",", ":"))
        if len(state) <= MAX_STATE:
            row = insert(connection, widgets).values(
                notebook_key=self._notebook, comm_id=comm_id, kernel=self._of, state=state
            )
            changes = {"kernel": self._of, "state": state}
            connection.execute(row.on_conflict_do_update(index_elements=["notebook_key", "comm_id"], set_=changes))


def _forget(notebook: NotebookKey, connection: Connection) -> None:
    connection.execute(delete(widgets).where(widgets.c.notebook_key == notebook))


def _stored(notebook: NotebookKey, connection: Connection) -> list[tuple[str, str, str]]:
    found = select(widgets.c.comm_id, widgets.c.kernel, widgets.c.state).where(widgets.c.notebook_key == notebook)
    return [(row.comm_id, row.kernel, row.state) for row in connection.execute(found)]
