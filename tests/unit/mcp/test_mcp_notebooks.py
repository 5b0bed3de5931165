"""Which sessions the server keeps open."""

from __future__ import annotations

from typing import cast

import pytest

from cellyard import AsyncSession
from cellyard.errors import CellyardError, ControllerUnavailable, NotebookNotFound
from cellyard.mcp import notebooks
from cellyard.mcp.notebooks import Notebooks


class Session:
    """Counts how often it is connected and closed."""

    def __init__(self, notebook_id: str) -> None:
        self.notebook_id = notebook_id
        self.connected = self.closed = 0

    async def connect(self) -> None:
        self.connected += 1

    async def close(self) -> None:
        self.closed += 1


class Opened:
    """A server's sessions, and the notebooks that there are."""

    def __init__(self, *there: str) -> None:
        self.there = there
        self.all: list[Session] = []
        self.notebooks = Notebooks(self._open, self._look_for, "own")

    def open(self) -> list[str]:
        """Ids of the notebooks whose sessions are open."""
        return [each.notebook_id for each in self.all if not each.closed]

    def _open(self, notebook_id: str) -> AsyncSession:
        self.all.append(Session(notebook_id))
        return cast(AsyncSession, self.all[-1])

    async def _look_for(self, notebook_id: str) -> None:
        if notebook_id not in self.there:
            raise NotebookNotFound(f"notebook {notebook_id!r} not found")


async def test_a_session_is_opened_once_and_closed_at_the_end() -> None:
    opened = Opened("nb")
    for _ in range(3):
        async with opened.notebooks.at("nb") as one, opened.notebooks.at(None) as own:
            assert (one.notebook_id, own.notebook_id) == ("nb", "own")
    assert sorted(opened.open()) == ["nb", "own"]
    await opened.notebooks.close()
    assert [each.closed for each in opened.all] == [1, 1]


async def test_looking_makes_no_notebook_and_running_does() -> None:
    opened = Opened()
    with pytest.raises(NotebookNotFound):
        async with opened.notebooks.at("new"):
            pass
    assert not opened.all
    async with opened.notebooks.at("new", makes=True):
        pass
    async with opened.notebooks.at("new"):
        pass
    assert opened.open() == ["new"]


async def test_sessions_without_a_kernel_go_the_longest_unused_first() -> None:
    opened = Opened(*(f"nb-{number}" for number in range(notebooks.KEPT + 2)))
    async with opened.notebooks.at("ran", makes=True, kernel=True):
        pass
    async with opened.notebooks.at("nb-0"):  # in use: it stays
        for number in range(1, notebooks.KEPT + 2):
            async with opened.notebooks.at(f"nb-{number}"):
                pass
        assert opened.open() == ["ran", "nb-0", *(f"nb-{number}" for number in range(2, notebooks.KEPT + 2))]
    opened.notebooks.ended("ran")
    async with opened.notebooks.at("nb-5"):
        pass
    assert "ran" not in opened.open()


async def test_after_the_controller_was_lost_the_next_call_begins_anew() -> None:
    opened = Opened()
    with pytest.raises(ControllerUnavailable):
        async with opened.notebooks.at(None), opened.notebooks.at(None):
            raise ControllerUnavailable("another controller answers")
    assert opened.open() == []
    assert [each.closed for each in opened.all] == [1]
    async with opened.notebooks.at(None):
        assert len(opened.all) == 2
    with pytest.raises(CellyardError):
        async with opened.notebooks.at(None):
            raise CellyardError("anything else")
    assert opened.open() == ["own"]
