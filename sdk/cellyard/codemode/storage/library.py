"""Workflows as sessions know them: parsed, checked and searched, whatever keeps them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cellyard.codemode.errors import WorkflowValidationError, made_public
from cellyard.codemode.search import Search, default_search
from cellyard.codemode.storage.protocols import StoredWorkflow, WorkflowStore
from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.workflows import Workflow

_log = logging.getLogger("cellyard.codemode")


class WorkflowLibrary:
    """The workflows of a storage. Nothing of them is executed here."""

    def __init__(self, store: WorkflowStore, search: Search | None = None) -> None:
        self._store = store
        self._search = search

    def list(self) -> list[Workflow]:
        """Those that can be read, by name. One that cannot is left out with a warning in the log."""
        found = []
        for stored in self._store.list():
            try:
                found.append(_parsed(stored))
            except WorkflowValidationError as bad:
                _log.warning("workflow %r is left out: %s", stored.name, bad)
        return found

    def get(self, name: str) -> Workflow | None:
        """One of them, None where there is none. Raises WorkflowValidationError where it cannot be read."""
        try:
            workflows.check_name(name)
        except ValueError:
            return None
        stored = self._store.get(name)
        return None if stored is None else _parsed(stored)

    def create(self, name: str, source: str, description: str = "") -> Workflow:
        """Keeps a workflow, in place of one of the same name. Raises WorkflowValidationError."""
        with made_public():
            workflow = workflows.parse(name, source, description)
        self._store.put(StoredWorkflow(name, source, description))
        return workflow

    def remove(self, name: str) -> bool:
        """False where there is none. Raises WorkflowValidationError for what can be no name."""
        with made_public():
            workflows.check_name(name)
        return self._store.remove(name)

    def search(self, query: str, limit: int = 10) -> Sequence[Workflow]:
        """Those that fit the query, best first."""
        found = self.list()
        if self._search is None:
            self._search = default_search()
        return [found[index] for index in self._search.rank(query, [_text(each) for each in found], limit)]


def _parsed(stored: StoredWorkflow) -> Workflow:
    with made_public():
        return workflows.parse(stored.name, stored.source, stored.description)


def _text(workflow: Workflow) -> str:
    names = " ".join(parameter.name for parameter in workflow.parameters)
    return f"{workflow.name}\n{workflow.description}\n{names}\n{workflow.source}"
