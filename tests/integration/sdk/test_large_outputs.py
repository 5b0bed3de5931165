"""Parts of outputs that messages only refer to: users get them whole, whatever breaks or goes away meanwhile."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests.integration.sdk import flavours
from tests.integration.sdk.scripted_controller import Refusal, ScriptedController

from cellyard import events

TEXT = "äöü" * 2000
PICTURE = base64.b64encode(bytes(range(256)) * 40).decode()
CODE = f"print({TEXT!r})\ndisplay({PICTURE!r}, mime='image/png')\ndisplay('small')"
GONE = Refusal("EXECUTION_NOT_FOUND", "no execution shows it (any more)")


@pytest.fixture(autouse=True)
def large(controller: ScriptedController) -> None:
    """Of a kilobyte and more there are only references."""
    controller.large = 1000


def is_whole(outputs: Any) -> bool:
    """Whether these are the outputs of CODE."""
    printed, picture, small = outputs
    return (
        printed.text == f"{TEXT}\n"
        and picture.data == {"image/png": base64.b64decode(PICTURE)}
        and small.data == {"text/plain": "small"}
    )


async def test_every_call_gives_whole_outputs(flavour: str, session: Any, endpoint: str) -> None:
    shown: list[Any] = []
    result = await session.run(CODE, on_output=shown.append)
    assert is_whole(result.outputs)
    assert is_whole(shown)
    assert is_whole((await session.get_cell(result.cell_id)).outputs)
    assert is_whole((await session.get_cells())[0].outputs)
    assert is_whole((await session.get_execution(result.execution_id)).outputs)
    assert is_whole((await session.wait(result.execution_id)).outputs)
    async with flavours.client(flavour, endpoint) as client:
        assert is_whole((await client.get_execution(session.notebook_id, result.execution_id)).outputs)
    streamed = [event async for event in session.stream_execute(result.cell_id)]
    assert is_whole([event.output for event in streamed if isinstance(event, events.OutputEvent)])
    assert is_whole(streamed[-1].result.outputs)


async def test_what_is_shown_twice_is_fetched_once_a_call(session: Any, controller: ScriptedController) -> None:
    await session.run(f"display({PICTURE!r}, mime='image/png')")
    await session.run(f"display({PICTURE!r}, mime='image/png')")
    before = len(controller.called("Executions.ReadBlob"))
    first, second = await session.get_cells()
    assert first.outputs == second.outputs
    assert len(controller.called("Executions.ReadBlob")) == before + 1


async def test_a_break_is_healed_where_it_was(session: Any, controller: ScriptedController) -> None:
    result = await session.run(CODE)
    before = len(controller.called("Executions.ReadBlob"))
    for _ in range(3):
        controller.blob_breaks.append(Refusal("CONTROLLER_UNAVAILABLE", "stopping", {"retryable": "true"}))
    assert is_whole((await session.get_cell(result.cell_id)).outputs)
    offsets = [request.offset for request in controller.called("Executions.ReadBlob")[before:]]
    assert offsets == [0, 1000, 2000, 3000, 0]


async def test_what_went_away_in_between_is_asked_for_once_more(session: Any, controller: ScriptedController) -> None:
    result = await session.run(CODE)
    controller.faults["Executions.ReadBlob"].append(GONE)
    assert is_whole((await session.get_cell(result.cell_id)).outputs)
    assert len(controller.called("Notebooks.GetCell")) == 2


async def test_an_event_whose_part_went_away_leaves_the_result_whole(
    session: Any, controller: ScriptedController
) -> None:
    shown: list[Any] = []
    controller.faults["Executions.ReadBlob"].append(GONE)
    result = await session.run(CODE, on_output=shown.append)
    assert shown[0].text == f"[cellyard: {len(TEXT.encode()) + 1} bytes of output are no longer kept]\n"
    assert is_whole(result.outputs)


async def test_what_is_gone_for_good_says_so(session: Any, controller: ScriptedController) -> None:
    result = await session.run(CODE)
    controller.faults["Executions.ReadBlob"].extend([GONE] * 4)
    printed, picture, small = (await session.get_cell(result.cell_id)).outputs
    assert printed.text == f"[cellyard: {len(TEXT.encode()) + 1} bytes of output are no longer kept]\n"
    assert picture.data == {"text/plain": f"[cellyard: {len(PICTURE)} bytes of output are no longer kept]"}
    assert small.data == {"text/plain": "small"}


async def test_content_that_is_not_what_its_hash_says_is_not_shown(
    session: Any, controller: ScriptedController
) -> None:
    result = await session.run(CODE)
    for digest, content in controller.blobs.items():
        controller.blobs[digest] = content[:-1] + b"!"
    printed, picture, _ = (await session.get_cell(result.cell_id)).outputs
    assert "no longer kept" in printed.text
    assert "image/png" not in picture.data


async def test_two_calls_at_once_each_get_all(session: Any) -> None:
    result = await session.run(CODE)
    cells = await asyncio.gather(*(session.get_cell(result.cell_id) for _ in range(5)))
    assert all(is_whole(cell.outputs) for cell in cells)
