"""Machines with engines, that the tests of a module share: those that its NODES names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.machines import Machines
from tests.cluster.swarm import Swarm


@pytest.fixture(scope="module")
def machines(built_image: str, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Machines whose engines have the image that sandboxes are made from."""
    machines = Machines()
    try:
        machines.prepare_images(built_image)
        for name in request.module.NODES:
            machines.start_engine(machines.add(name))
        yield machines
    finally:
        machines.close()


@pytest.fixture(scope="module")
def swarm(machines: Machines) -> Swarm:
    """A Swarm of them."""
    return Swarm(machines, *machines.machines)
