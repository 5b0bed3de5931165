"""Changes are told to whoever waits, and none is missed."""

from __future__ import annotations

import asyncio

from cellyard_controller.changes import Changes


async def test_who_waits_hears_of_the_next_change_and_of_those_that_it_missed() -> None:
    changes = Changes()
    waits = [asyncio.ensure_future(changes.after(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waits)
    changes.tell()
    assert await asyncio.gather(*waits) == [1, 1, 1]
    changes.tell()
    assert await changes.after(1) == 2
