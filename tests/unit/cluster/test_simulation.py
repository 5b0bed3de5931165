"""A small simulation, looked at after every plan: nobody gets what is not there, and nobody is forgotten."""

from __future__ import annotations

from tests.simulation.load import Size
from tests.simulation.node import SimulatedNode
from tests.simulation.run import Simulation

from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.sandboxes.plans import NOTHING, Stage

SIZE = Size(
    nodes=16, notebooks=1_000, seconds=400.0, crowd=0.5, lost=0.3, drained=0.15, lying=0.1, broken=0.1, crowd_tenants=5
)


def test_nodes_stay_within_their_capacity_and_every_notebook_is_served_refused_or_still_there() -> None:
    drained_with: dict[str, set[str]] = {}

    def look(node: SimulatedNode) -> None:
        total = NOTHING
        for known in node.known.values():
            total += known.need
        assert not node.machine.exceeded(total), "whatever its reports say"
        if node.state is NodeState.DRAINING:
            there = {known.sandbox_id for known in node.known.values() if known.stage is Stage.HELD}
            assert there <= drained_with.setdefault(node.name, there), "a node that drains takes nobody in"

    simulation = Simulation(SIZE, look)
    seen = simulation.run()
    there = sum(len(node.waiting) + len(node.held) for node in simulation.nodes)
    assert simulation.open == there + simulation.moving
    assert drained_with
    assert seen.moved > 0
    assert seen.starts["granted"] > 0.6 * SIZE.notebooks
    assert seen.quota_overshoot < 1.0
    figures = seen.table()
    assert figures["crowd: samples"] > 0
    assert figures["crowd: Jain's index by weight"] > 0.8
    assert figures["warm hits before the crowd %"] > 50
