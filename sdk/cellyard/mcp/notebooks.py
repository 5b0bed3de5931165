"""The sessions behind the server: one for each notebook that is used, the server's own among them.

One owner: everything runs on one event loop, and only this class opens and closes them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cellyard._async.session import AsyncSession
from cellyard.errors import ControllerUnavailable

KEPT = 16
"""Sessions that stay open though no kernel was used in them."""


@dataclass(slots=True)
class _Place:
    session: AsyncSession
    users: int = 0
    kernel: bool = False
    """A kernel was used here: closing the session may end it, so it stays open until the server ends."""


class Notebooks:
    """Opens a session for a notebook where there is none, and keeps it: its kernel lives on between calls."""

    def __init__(
        self,
        open_session: Callable[[str], AsyncSession],
        look_for: Callable[[str], Awaitable[object]],
        own: str | None = None,
    ) -> None:
        """`look_for` raises NotebookNotFound for a notebook that is not there: opening a session would make it."""
        self.own = own or f"mcp-{uuid.uuid4()}"
        """The notebook that is meant where none is named."""
        self._open, self._look_for = open_session, look_for
        self._places: OrderedDict[str, _Place] = OrderedDict()

    @asynccontextmanager
    async def at(
        self, notebook_id: str | None, *, makes: bool = False, kernel: bool = False
    ) -> AsyncIterator[AsyncSession]:
        """A connected session of this notebook.

        `makes`: it is made where it is not there, as the server's own always is. `kernel`: what follows may start one.
        Raises NotebookNotFound, and what connecting raises.
        """
        name = notebook_id or self.own
        if not makes and name != self.own and name not in self._places:
            await self._look_for(name)
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = _Place(self._open(name))
        self._places.move_to_end(name)
        place.users += 1
        place.kernel = place.kernel or kernel
        try:
            await place.session.connect()
            yield place.session
        except ControllerUnavailable:
            # Another controller may answer at the same place tomorrow: the next call begins anew.
            if self._places.get(name) is place:
                del self._places[name]
            raise
        finally:
            place.users -= 1
            if self._places.get(name) is not place:
                if not place.users:
                    await place.session.close()
            else:
                await self._trim()

    def ended(self, notebook_id: str | None) -> None:
        """The kernel of this notebook was ended by hand."""
        place = self._places.get(notebook_id or self.own)
        if place is not None:
            place.kernel = False

    async def close(self) -> None:
        """Leaves all notebooks. Kernels that nobody else uses end with that."""
        places, self._places = list(self._places.values()), OrderedDict()
        await asyncio.gather(*(place.session.close() for place in places), return_exceptions=True)

    async def _trim(self) -> None:
        spare = [name for name, place in self._places.items() if not place.kernel and not place.users]
        for name in spare[: max(0, len(spare) - KEPT)]:
            await self._places.pop(name).session.close()
