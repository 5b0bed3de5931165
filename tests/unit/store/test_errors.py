"""What clients are told of a store that does not take something."""

from __future__ import annotations

import pytest

from cellyard_controller.errors import Unavailable
from cellyard_controller.store.errors import Fenced, StoreAway, StoreDamaged, StoreFailed, refusal


@pytest.mark.parametrize(
    ("failed", "again"),
    [(StoreFailed("full"), False), (StoreDamaged("torn"), False), (StoreAway("gone"), True), (Fenced("late"), True)],
)
def test_they_are_to_ask_again_where_that_helps(failed: StoreFailed, again: bool) -> None:
    told = refusal(failed)
    assert isinstance(told, Unavailable)
    assert (told.message, told.retryable) == (str(failed), again)
