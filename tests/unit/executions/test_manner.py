"""How a source is to be run outlives the controller that accepted it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.executions import records
from cellyard_controller.executions.calls import Offers
from cellyard_controller.executions.model import Manner

MANNERS = st.builds(
    Manner,
    silent=st.booleans(),
    store_history=st.none() | st.booleans(),
    user_expressions=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3).map(
        lambda known: tuple(sorted(known.items()))
    ),
    payload=st.booleans(),
)
OFFERS = st.builds(Offers, st.frozensets(st.text(max_size=5), max_size=3), st.booleans())


@given(manner=MANNERS, offers=OFFERS)
def test_what_was_asked_for_is_stored_and_read(manner: Manner, offers: Offers) -> None:
    stored = records._asked_json(offers, manner)
    assert records._manner(stored) == manner
    assert records._offers(stored) == offers
