"""What the controller does beside its work: forgetting what need not be kept any longer."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from cellyard_controller.clock import steady
from cellyard_controller.executions import blob_uses, retention
from cellyard_controller.store import Store, StoreFailed, requests

log = structlog.get_logger()


async def keep_up(store: Store, interval_s: float) -> None:
    """Forgets what is due, now and every `interval_s` seconds, until cancelled."""
    while True:
        try:
            await once(store, steady())
        except StoreFailed as failed:
            log.warning("upkeep is put off", why=str(failed))
        except Exception:  # a defect here must not end the controller
            log.exception("upkeep failed")
        await asyncio.sleep(interval_s)


async def once(store: Store, now: float) -> None:
    """Forgets what is due at this time, in steps that others can get in between."""
    await store.write(partial(requests.forget, before=now - requests.KEPT_S))
    await store.write(retention.forget_expired)
    while due := await store.read(retention.to_expire):
        await store.write(partial(retention.expire, due=due))
    while short := await store.read(partial(retention.to_shorten, ended_before=now - retention.EVENTS_KEPT_S)):
        await store.write(partial(retention.shorten, due=short))
    await blob_uses.collect(store)
