"""MCP servers as tools: what a server offers are the tool's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cellyard.codemode.errors import ToolCallError, ToolTimeoutError
from cellyard.codemode.tools.definitions import McpDefinition
from cellyard.codemode.tools.mcp_connection import Connection
from cellyard.codemode.tools.mcp_offers import Offer, offers, result
from cellyard.codemode.tools.parameters import Outline, unknown_recipe


class McpTool:
    """Keeps a server for as long as the session lasts."""

    def __init__(self, definition: McpDefinition) -> None:
        self._definition = definition
        self._connection = Connection(definition)

    @property
    def name(self) -> str:
        return self._definition.name

    def outline(self) -> Outline:
        """Nothing can be called of a server that was never connected."""
        offered, _ = offers(self._connection.tools or [])
        description = self._definition.description or "; ".join(
            f"{each.name}: {each.description.strip().partition(chr(10))[0]}" for each in offered
        )
        return Outline(
            self.name,
            description,
            tuple(self._definition.tags),
            tuple(each.as_callable() for each in offered),
            None if self._connection.tools is None else tuple(each.name for each in offered),
        )

    async def open(self) -> None:
        """Connects. Raises ToolCallError where that fails, and where something that is offered cannot be called."""
        await self._connection.connected()
        _, problems = offers(self._connection.tools or [])
        if problems:
            raise ToolCallError("; ".join(problems))

    async def close(self) -> None:
        await self._connection.close()

    def check(self, recipe: str | None, args: Mapping[str, Any]) -> None:
        """What a server offers is known once it was connected; before, the call itself is the check."""
        if self._connection.tools is not None:
            offer = self._offer(recipe)
            offer.check(f"{self.name}.{offer.name}", args)

    async def call(self, recipe: str | None, args: Mapping[str, Any]) -> Any:
        """The result as data; see `mcp_offers.result`."""
        try:
            if self._connection.tools is None:
                await self._connection.connected()
            offer = self._offer(recipe)
            arguments = offer.check(f"{self.name}.{offer.name}", args)
            return result(await self._connection.call(offer.real_name, arguments))
        except TimeoutError:
            raise ToolTimeoutError(f"Tool '{self.name}' timed out after {self._definition.timeout:g}s") from None
        except ToolCallError as failure:
            raise type(failure)(f"Tool '{self.name}' failed: {failure}") from None

    def _offer(self, recipe: str | None) -> Offer:
        offered, _ = offers(self._connection.tools or [])
        by_name = {each.name: each for each in offered}
        if recipe is None or (recipe == self.name and recipe not in by_name):
            recipe_name = self.name if self.name in by_name else next(iter(by_name)) if len(by_name) == 1 else None
        else:
            recipe_name = recipe
        if recipe_name is None or recipe_name not in by_name:
            raise unknown_recipe(self.name, recipe or self.name, by_name)
        return by_name[recipe_name]
