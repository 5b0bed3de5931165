"""What there is, live: sandboxes, pools, queues, notebooks in memory, tenants, runtimes. A tenant sees what is its own.

Whoever owns something says when it has changed; what is shown is read then, and each part is told where it is another
than before. Times are told as moments, so that nothing changes only because it gets older.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog

from cellyard_controller.clock import shown
from cellyard_controller.config import Config
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.tenants import kept
from cellyard_controller.tenants.kept import Kept
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.web.standing import Standing

GATHER_S = 0.1
"""Seconds for which changes are gathered before they are told."""
LOOK_EVERY = 2.0
"""Seconds after which is looked anyway: what runtimes are capable of is asked every few seconds, and says no word."""
MEASURED_FOR_S, _SHARE = 2.0, 20
"""What tenants keep holds for so many seconds at least, and so many times as long as it took to measure."""
MOST = 500
"""Of anything that is listed; of the rest it is told how many there are."""

log = structlog.get_logger()
Part = list[dict[str, Any]]


class Overview:
    """Everything at a glance. One for all who look."""

    def __init__(
        self,
        supervisor: Supervisor,
        rooms: Rooms,
        store: Store,
        standing: Callable[[], Standing | None],
        quotas: Quotas,
        config: Config,
    ) -> None:
        self._supervisor, self._rooms, self._store = supervisor, rooms, store
        self._standing, self._quotas, self._config = standing, quotas, config
        self._kept: dict[TenantName, Kept] = {}
        self._holds_until = 0.0
        self._measuring = asyncio.Lock()

    async def watch(self, tenant: TenantName | None) -> AsyncGenerator[dict[str, Any], None]:
        """All parts, then each that has changed. `tenant`: whose things; None for everybody's."""
        told: dict[str, Any] = {}
        while True:
            counts = self._supervisor.changes.count, self._rooms.changes.count
            await self._measure()
            now = self._parts(tenant)
            changed = {name: part for name, part in now.items() if told.get(name) != part}
            if changed:
                told = now
                yield changed
            await self._something(*counts)
            await asyncio.sleep(GATHER_S)

    async def _something(self, of_sandboxes: int, of_rooms: int) -> None:
        waits = [
            asyncio.ensure_future(self._supervisor.changes.after(of_sandboxes)),
            asyncio.ensure_future(self._rooms.changes.after(of_rooms)),
        ]
        try:
            await asyncio.wait(waits, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _parts(self, tenant: TenantName | None) -> dict[str, Any]:
        mine = [each for each in self._supervisor.sandboxes() if tenant in (None, _tenant(each))]
        parts = {
            "sandboxes": _most(map(_sandbox, mine)),
            "queue": _most(self._queue(tenant)),
            "notebooks": _most(self._notebooks(tenant)),
            "tenants": _most(self._usage(tenant, mine)),
        }
        if tenant is None:
            parts["pools"] = _most(self._pools())
            parts["runtimes"] = _most(self._runtimes())
        return parts

    def _queue(self, tenant: TenantName | None) -> Iterable[dict[str, Any]]:
        for claim in self._supervisor.queue():
            if tenant in (None, claim.ref.tenant):
                waited = claim.waited
                yield {
                    "tenant": claim.ref.tenant,
                    "notebook_id": claim.ref.notebook_id,
                    "template": claim.kind.template,
                    "since": shown(claim.asked_at),
                    "reason": waited.reason if waited else "start",
                    "message": str(waited) if waited else "its sandbox is being made",
                    "position": waited.position + 1 if waited else 0,
                }

    def _notebooks(self, tenant: TenantName | None) -> Iterable[dict[str, Any]]:
        for view in self._rooms.views():
            if tenant in (None, view.ref.tenant):
                yield {
                    "tenant": view.ref.tenant,
                    "notebook_id": view.ref.notebook_id,
                    "kernel": str(view.kernel),
                    "running": bool(view.running),
                    "waiting": view.waiting,
                }

    def _usage(self, tenant: TenantName | None, sandboxes: list[Sandbox]) -> Iterable[dict[str, Any]]:
        used = Counter(_tenant(each) for each in sandboxes)
        memory, cpus = Counter[TenantName | None](), Counter[TenantName | None]()
        for each in sandboxes:
            memory[_tenant(each)] += each.template.memory_bytes
            cpus[_tenant(each)] += each.template.cpus  # type: ignore[assignment] # typeshed counts in whole numbers
        queued = Counter[TenantName]()
        for view in self._rooms.views():
            queued[view.ref.tenant] += view.waiting
        names = [tenant] if tenant is not None else sorted({LOCAL, *self._quotas.names(), *filter(None, used), *queued})
        for name in names:
            quota, keeps = self._quotas.of(name), self._kept.get(name)
            yield {
                "tenant": name,
                "used": {
                    "sandboxes": used[name],
                    "memory": memory[name],
                    "cpu": cpus[name],
                    "queued": queued[name],
                    "notebooks": keeps.notebooks if keeps else 0,
                    "storage": keeps.storage_bytes if keeps else 0,
                },
                "quota": {key: limit for key, limit in asdict(quota).items() if limit is not None},
            }

    def _pools(self) -> Iterable[dict[str, Any]]:
        for view in self._supervisor.pools():
            yield {
                "template": view.kind.template,
                "kernel_type": view.kind.kernel_type,
                "env_source": view.kind.env_source,
                "target": view.target,
                "warm": view.warm,
                "making": view.making,
                "claimed": view.claimed,
                "hits": view.demand.hits,
                "misses": view.demand.misses,
                "failures": view.demand.failures,
                "lead_s": round(view.demand.lead_s, 2),
            }

    def _runtimes(self) -> Iterable[dict[str, Any]]:
        standing = self._standing()
        if standing is None:
            return
        for name in self._config.runtime:
            proven = [
                {
                    "template": template,
                    "network": network,
                    "facts": [{"name": f.name, "granted": f.granted, "evidence": f.evidence} for f in facts],
                }
                for (runtime, template, network), facts in sorted(standing.facts.items())
                if runtime == name
            ]
            yield {"runtime": name, "ready": standing.ready.get(name, False), "proven": proven}

    async def _measure(self) -> None:
        """What tenants keep: measured at most every few seconds, by one of those who look, for all."""
        async with self._measuring:
            began = time.monotonic()
            if began < self._holds_until:
                return
            try:
                owners = (await self._store.read(kept.owners))[:MOST]
                self._kept = {owner: await self._measured(owner) for owner in owners}
            except StoreFailed as failed:
                log.warning("what tenants keep cannot be measured", why=str(failed))
            ended = time.monotonic()
            self._holds_until = ended + max(MEASURED_FOR_S, _SHARE * (ended - began))

    async def _measured(self, tenant: TenantName) -> Kept:
        return await self._store.read(partial(kept.measured, blobs=self._store.blobs, tenant=tenant))


def _tenant(sandbox: Sandbox) -> TenantName | None:
    return sandbox.notebook.tenant if sandbox.notebook is not None else None


def _sandbox(sandbox: Sandbox) -> dict[str, Any]:
    notebook, template = sandbox.notebook, sandbox.template
    return {
        "sandbox_id": sandbox.sandbox_id,
        "tenant": notebook.tenant if notebook else "",
        "notebook_id": notebook.notebook_id if notebook else "",
        "state": str(sandbox.state),
        "template": template.name,
        "runtime": sandbox.runtime.name,
        "kernel_type": sandbox.kernel_type or sandbox.kind.kernel_type,
        "env_source": sandbox.env_source or sandbox.kind.env_source,
        "created_at": shown(sandbox.created_at),
        "claimed_at": shown(sandbox.claimed_at) if sandbox.claimed_at else 0,
        "memory_bytes": template.memory_bytes,
        "end_reason": str(sandbox.end[0]) if sandbox.end else "",
    }


def _most(rows: Iterable[dict[str, Any]]) -> Mapping[str, Any]:
    listed = list(rows)
    return {"rows": listed[:MOST], "more": max(0, len(listed) - MOST)}
