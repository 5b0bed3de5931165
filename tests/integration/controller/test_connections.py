"""Connections that nothing happens on."""

from __future__ import annotations

import asyncio

import pytest

import cellyard

from .conftest import Yard


@pytest.mark.soak  # gRPC takes offence only at the third ping
async def test_a_session_that_does_nothing_keeps_its_connection(yard: Yard) -> None:
    """The SDK pings every 20 s to notice a controller that froze; the controller is not to take that for a flood."""
    await yard.start()
    async with cellyard.AsyncSession(notebook_id="nb", endpoint=f"unix:{yard.folder}/c.sock") as session:
        await session.connect()
        connection = session._transport.standing()
        assert connection is not None
        assert connection.presence is not None
        ends = asyncio.ensure_future(connection.presence.read())
        ended, _ = await asyncio.wait({ends}, timeout=100)
        assert not ended
        assert connection.usable()
        ends.cancel()
