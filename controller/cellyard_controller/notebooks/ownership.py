"""Whose a notebook is, where several controllers share a store: asked before anything of it is read or changed."""

from __future__ import annotations

from typing import Protocol

from cellyard_controller.ids import NotebookKey, NotebookRef


class Ownership(Protocol):
    """What says which notebooks are this node's. Its coroutines may be called from any task."""

    async def own(self, ref: NotebookRef, *, create: bool) -> None:
        """Returns once the notebook is this node's, and nobody else writes it.

        Raises NotOwner where another node has it, Unavailable (retryable) where nobody can be told yet,
        NotebookNotFound where there is none and none may be made (`create`).
        """

    async def give_up(self, ref: NotebookRef) -> None:
        """Nothing of it is in memory here any more: anybody may have it next."""

    async def hand_over(self, ref: NotebookRef, key: NotebookKey, to: str) -> bool:
        """Nothing of it is in memory here any more: this node is to go on with it. Whether it has it now."""


class Alone:
    """For a store that no other controller has: everything in it is this one's."""

    async def own(self, ref: NotebookRef, *, create: bool) -> None:
        """It is."""

    async def give_up(self, ref: NotebookRef) -> None:
        """To nobody."""

    async def hand_over(self, ref: NotebookRef, key: NotebookKey, to: str) -> bool:
        """There is no other node."""
        return False
