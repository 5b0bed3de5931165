"""How many notebooks and sandboxes there are of each value of the labels that the operator chose for metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, func, select

from cellyard_controller.sandboxes.lifecycle import SandboxState
from cellyard_controller.store.dialects import member
from cellyard_controller.store.schema import notebooks, sandboxes
from cellyard_controller.tallies import Labels

MAX_VALUES = 100
"""Of one label, the most frequent ones. Tenants choose values: the number of series must have a bound."""
OTHERS = "(others)"
"""The value under which all others are counted."""

Counts = Mapping[Labels, float]
"""By a label's name and value."""


def count(connection: Connection, labels: Sequence[str]) -> tuple[Counts, Counts]:
    """Notebooks, and sandboxes that serve one, by the labels of these names."""
    kept: defaultdict[Labels, float] = defaultdict(float)
    used: defaultdict[Labels, float] = defaultdict(float)
    serving = (sandboxes.c.notebook_key == notebooks.c.key) & (sandboxes.c.state == SandboxState.CLAIMED)
    for label in labels:
        value = member(notebooks.c.labels, label)  # no label's name has a quote: they are checked
        number = func.count(notebooks.c.key.distinct())
        rows = connection.execute(
            select(value, number, func.count(sandboxes.c.sandbox_id))
            .select_from(notebooks.outerjoin(sandboxes, serving))
            .where(value.is_not(None))
            .group_by(value)
            .order_by(number.desc(), value)
        )
        for place, (text, there, in_use) in enumerate(rows):
            key = label, str(text) if place < MAX_VALUES else OTHERS
            kept[key] += there
            used[key] += in_use
    return kept, used
