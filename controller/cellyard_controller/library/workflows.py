"""Tenants' workflows: read, kept, listed and searched. Nothing of them is executed."""

from __future__ import annotations

import asyncio
from functools import partial

from cellyard_controller.config import LibraryConfig
from cellyard_controller.errors import InvalidRequest, WorkflowInvalid, WorkflowNotFound
from cellyard_controller.library import workflow_records as records
from cellyard_controller.library.places import Place, change_once
from cellyard_controller.library.reading import Reader
from cellyard_controller.library.workflow_records import WorkflowRecord
from cellyard_controller.store import Store
from cellyard_controller.store.requests import Request
from cellyard_controller.tenants.allowances import Allowances
from cellyard_proto import values
from cellyard_proto.codemode import search
from cellyard_proto.codemode import workflows as checks
from cellyard_proto.codemode.errors import WorkflowValidationError

PAGE, PAGE_BYTES = 1_000, 4 * 1024 * 1024
"""Workflows of one page of a list, and about how many bytes, at most."""
MAX_QUERY = 10_000
"""Characters of a query."""


class Workflows:
    """The workflows of all tenants."""

    def __init__(self, store: Store, allowances: Allowances, limits: LibraryConfig) -> None:
        self._store, self._allowances, self._limits = store, allowances, limits
        self._reader = Reader()
        self._searching = asyncio.Lock()  # one at a time: each has a tenant's sources in memory

    async def page(
        self, place: Place, limit: int = PAGE, after: str = "", *, sources: bool = False
    ) -> tuple[list[WorkflowRecord], bool]:
        """Workflows by name, and whether there are others behind them."""
        limit = min(limit, PAGE)
        find = partial(records.listed, place=place, limit=limit, after=after, max_bytes=PAGE_BYTES, sources=sources)
        return await self._store.read(find)

    async def get(self, place: Place, name: str) -> WorkflowRecord:
        """One of them. Raises WorkflowNotFound."""
        found = await self._store.read(partial(records.find, place=place, name=name))
        if found is None:
            raise WorkflowNotFound(f"Workflow {name[:100]!r} not found", name=name[:100])
        return found

    async def put(self, place: Place, name: str, source: str, description: str, request: Request) -> WorkflowRecord:
        """Keeps one, in place of one of the same name, once for a request. Raises WorkflowInvalid, QuotaExceeded."""
        record = await self._reader.read(name, source, description)
        async with self._allowances.coming(place.tenant, record.size):
            put = partial(records.put, place=place, record=record, limits=self._limits)
            await change_once(self._store, place.tenant, request, put)
        return record

    async def remove(self, place: Place, name: str, request: Request) -> bool:
        """Takes one away, once for a request; False where there was none. Raises WorkflowInvalid."""
        try:
            checks.check_name(name)
        except WorkflowValidationError as wrong:
            raise WorkflowInvalid(str(wrong)) from None
        remove = partial(records.remove, place=place, name=name)
        removed = await change_once(self._store, place.tenant, request, remove)
        self._allowances.measure_again(place.tenant)
        return bool(removed)

    async def search(self, place: Place, query: str, limit: int) -> list[WorkflowRecord]:
        """Those that share words with a query, best first, without their sources. Raises InvalidRequest."""
        if len(query) > MAX_QUERY:
            raise InvalidRequest(f"a query has at most {MAX_QUERY} characters, not {len(query)}")
        async with self._searching:
            return await asyncio.to_thread(_ranked, await self._all(place), query, limit)

    async def _all(self, place: Place) -> list[WorkflowRecord]:
        found: list[WorkflowRecord] = []
        more = True
        while more:
            page, more = await self.page(place, after=found[-1].name if found else "", sources=True)
            found += page
        return found


def _ranked(found: list[WorkflowRecord], query: str, limit: int) -> list[WorkflowRecord]:
    order = search.rank(query, [_text(each) for each in found], limit)
    return [WorkflowRecord(each.name, "", each.given, each.summary) for each in map(found.__getitem__, order)]


def _text(record: WorkflowRecord) -> str:
    """What is searched, as cellyard.codemode.storage.library has it."""
    summary = values.decode(record.summary)
    names = " ".join(parameter["name"] for parameter in summary["parameters"])
    return f"{record.name}\n{summary['description']}\n{names}\n{record.source}"
