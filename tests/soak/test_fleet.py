"""Ten thousand nodes and a million notebooks, decided by the product's own functions in simulated time."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import show
from tests.simulation.load import Size
from tests.simulation.run import Simulation

pytestmark = pytest.mark.soak

GIB = 1 << 30


def test_decisions_stay_fast_and_small_and_within_the_bounds_at_full_size() -> None:
    seen = Simulation(Size()).run()
    show(seen)
    figures = seen.table()
    assert figures["placement p99 us"] < 5_000
    assert seen.peak_bytes < 4 * GIB
    assert seen.quota_overshoot < 1.0
    assert figures["crowd: Jain's index by weight"] > 0.9
    assert figures["warm hits before the crowd %"] > 90
