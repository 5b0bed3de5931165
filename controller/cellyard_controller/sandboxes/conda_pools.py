"""Pools of sandboxes with conda:prewarmed: each begins once its environment is made, which is everybody's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.conda_reading import prewarmed
from cellyard_controller.environments.making import Environments
from cellyard_controller.errors import Refused
from cellyard_controller.ids import TenantName
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.plans import Kind

NOBODY = TenantName("")
"""Whose an environment is that the operator has defined: no tenant is called so."""
_LOOK_AGAIN, _TRY_AGAIN = 600.0, 60.0
"""Seconds: the image may be another one, and the channel may be there again."""

log = structlog.get_logger()


async def keep_conda_pool(
    kind: Kind,
    config: EnvironmentsConfig,
    catalogue: Catalogue,
    environments: Environments,
    keep: Callable[[Kind], object],
) -> None:
    """Makes the environment, and calls `keep` with the kind that has it; again and again, until cancelled."""
    while True:
        try:
            runtime, template = catalogue.runtime(kind.runtime), catalogue.template(kind.template)
            async with environments.held(NOBODY, prewarmed(config), runtime, template, _unheard) as environment:
                keep(replace(kind, environment=environment))
                await asyncio.sleep(_LOOK_AGAIN)
        except Refused as refused:
            log.warning("a pool has no environment", template=kind.template, why=str(refused))
            await asyncio.sleep(_TRY_AGAIN)


def _unheard(stage: str, message: str) -> None:
    """Nobody waits."""
