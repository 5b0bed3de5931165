"""What is done beside everything else."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, cast

import pytest

from cellyard_controller.sandboxes.stock import Stock


async def test_what_is_cancelled_before_its_first_step_is_over_without_a_word(
    recwarn: pytest.WarningsRecorder,
) -> None:
    async def work() -> None:
        raise AssertionError("it is never begun")

    async with asyncio.TaskGroup() as tasks:
        stock = Stock(cast(Any, None), {}, tasks, on_ending=lambda _: None, on_gone=lambda _: None)
        task = stock.spawn(work())
        task.cancel()
    assert task.cancelled()
    del task, stock
    gc.collect()
    assert [str(each.message) for each in recwarn] == []
