"""What a tool is: a name, what it takes, what it does, and what clients may know of its effects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic

from mcp import types

from cellyard._async.client import AsyncClient
from cellyard._async.session import AsyncSession
from cellyard.mcp import arguments
from cellyard.mcp.arguments import Given
from cellyard.mcp.notebooks import Notebooks

Tell = Callable[[str], None]
"""Tells the caller of progress, in passing."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a tool works with: the server's notebooks and settings, and its caller."""

    notebooks: Notebooks
    client: Callable[[], AsyncClient]
    """Makes a client for what is about no one notebook."""
    timeout: float | None
    """Seconds for code whose caller names none."""
    limit: int
    """Characters of text in a result."""
    tell: Tell

    def at(
        self, notebook_id: str | None, *, makes: bool = False, kernel: bool = False
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """A connected session of a notebook, as `Notebooks.at` gives it."""
        return self.notebooks.at(notebook_id, makes=makes, kernel=kernel)


@dataclass(frozen=True, slots=True)
class Tool(Generic[Given]):
    """One tool of the server."""

    name: str
    title: str
    description: str
    takes: type[Given]
    do: Callable[[Call, Given], Awaitable[types.CallToolResult]]
    reads: bool = False
    """It changes nothing."""
    destroys: bool = False
    """What it removes does not come back."""
    repeatable: bool = False
    """Doing it twice is doing it once."""
    gives: dict[str, Any] | None = None
    """The schema of its data."""

    def described(self) -> types.Tool:
        """As clients see it."""
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            inputSchema=arguments.schema(self.takes),
            outputSchema=self.gives,
            annotations=types.ToolAnnotations(
                title=self.title,
                readOnlyHint=self.reads,
                destructiveHint=self.destroys and not self.reads,
                idempotentHint=self.reads or self.repeatable,
                # It reaches the controller and nothing else, apart from what the operator's network policy allows.
                openWorldHint=False,
            ),
        )

    async def __call__(self, call: Call, given: Mapping[str, Any]) -> types.CallToolResult:
        """Does it. Raises InvalidRequest for wrong arguments, and what the SDK raises."""
        return await self.do(call, arguments.parse(self.name, self.takes, given))


def listing(name: str, **more: Any) -> dict[str, Any]:
    """The schema of a list of objects under this name, with other fields beside it."""
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": {"type": "object"}}, **more},
        "required": [name],
    }
