"""Quotas that are refused at once: requests a second, notebooks, executions that wait, and what is kept.

Those on sandboxes are the scheduler's: there a request waits.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from cellyard_controller.errors import QuotaExceeded
from cellyard_controller.ids import NotebookId, NotebookRef, TenantName
from cellyard_controller.store import Store
from cellyard_controller.tenants import kept
from cellyard_controller.tenants.kept import Kept
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.tenants.rates import Rates
from cellyard_proto import amounts

MEASURED_FOR_S = 2.0
"""Seconds for which a measurement of what a tenant keeps holds, at least; what comes meanwhile may exceed it."""
_SHARE = 20
"""A measurement holds at least this many times as long as it took."""
_WAITING_AGAIN_S, _KEEPING_AGAIN_S = 1.0, 60.0


class Allowances:
    """What tenants may still have. Used on the controller's event loop alone."""

    def __init__(self, quotas: Quotas, store: Store) -> None:
        self._quotas, self._store = quotas, store
        self._rates = Rates(lambda tenant: quotas.of(tenant).rate)
        self._waiting: dict[TenantName, dict[NotebookId, int]] = {}
        self._kept: dict[TenantName, tuple[Kept, float]] = {}
        self._coming: Counter[TenantName] = Counter()

    def request(self, tenant: TenantName) -> None:
        """One more request. Raises QuotaExceeded."""
        wait = self._rates.take(tenant, time.monotonic())
        if wait:
            rate = self._quotas.of(tenant).rate
            raise _exceeded(tenant, "rate", f"more than {rate:g} requests a second", wait)

    def notebook(self, tenant: TenantName, there: int) -> None:
        """One more notebook beside those that are there. Raises QuotaExceeded."""
        limit = self._quotas.of(tenant).notebooks
        if limit is not None and there >= limit:
            what = f"{there} notebooks of {limit}; delete one first"
            raise _exceeded(tenant, "notebooks", what, _KEEPING_AGAIN_S)

    def waiting(self, ref: NotebookRef, count: int) -> None:
        """So many executions wait in a notebook."""
        by_notebook = self._waiting.setdefault(ref.tenant, {})
        if count:
            by_notebook[ref.notebook_id] = count
        else:
            by_notebook.pop(ref.notebook_id, None)
            if not by_notebook:
                del self._waiting[ref.tenant]

    def wait(self, ref: NotebookRef, count: int) -> None:
        """So many executions are to wait in a notebook, one more than before. Raises QuotaExceeded."""
        limit = self._quotas.of(ref.tenant).queued
        if limit is not None:
            by_notebook = self._waiting.get(ref.tenant, {})
            all_in_all = sum(by_notebook.values()) - by_notebook.get(ref.notebook_id, 0) + count
            if all_in_all > limit:
                what = f"{all_in_all - 1} waiting executions of {limit}"
                raise _exceeded(ref.tenant, "queued", what, _WAITING_AGAIN_S)
        self.waiting(ref, count)

    async def keep(self, tenant: TenantName, size: int) -> None:
        """About so many bytes more are to be kept. Raises QuotaExceeded, StoreFailed."""
        limit = self._quotas.of(tenant).storage
        if limit is None:
            return
        keeps = await self._measured(tenant)
        if keeps.storage_bytes + self._coming[tenant] + size > limit:
            what = f"{amounts.size(keeps.storage_bytes)} of {amounts.size(limit)} are kept; delete something first"
            raise _exceeded(tenant, "storage", what, _KEEPING_AGAIN_S)

    @asynccontextmanager
    async def coming(self, tenant: TenantName, size: int) -> AsyncIterator[None]:
        """So many bytes are to be kept when the block ends; others that come meanwhile leave room for them.

        Raises QuotaExceeded, StoreFailed.
        """
        await self.keep(tenant, size)
        self._coming[tenant] += size
        try:
            yield
            self._add(tenant, size)
        finally:
            self._coming[tenant] -= size
            if not self._coming[tenant]:
                del self._coming[tenant]

    def measure_again(self, tenant: TenantName) -> None:
        """Something was deleted: what was measured does not hold any more."""
        self._kept.pop(tenant, None)

    def _add(self, tenant: TenantName, size: int) -> None:
        known = self._kept.get(tenant)
        if known is not None:
            keeps, until = known
            self._kept[tenant] = replace(keeps, storage_bytes=keeps.storage_bytes + size), until

    async def _measured(self, tenant: TenantName) -> Kept:
        known = self._kept.get(tenant)
        started = time.monotonic()
        if known is not None and started < known[1]:
            return known[0]
        keeps = await self._store.read(partial(kept.measured, blobs=self._store.blobs, tenant=tenant))
        ended = time.monotonic()
        self._kept[tenant] = keeps, ended + max(MEASURED_FOR_S, _SHARE * (ended - started))
        return keeps


def _exceeded(tenant: TenantName, quota: str, what: str, retry_after_s: float) -> QuotaExceeded:
    message = f"the quota {quota} of tenant {tenant!r} is used up: {what}"
    return QuotaExceeded(message, retry_after_s=retry_after_s, tenant=tenant, quota=quota)
