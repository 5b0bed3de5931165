"""From definitions to tools. What the types of tools need is imported with the first definition of that type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cellyard.codemode.errors import ToolDefinitionError
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools.definitions import CliDefinition, Definition, HttpDefinition
from cellyard.codemode.tools.parameters import Tool
from cellyard.codemode.tools.parsing import BadDefinition, parse


@dataclass
class Loaded:
    """What a set of definitions came to."""

    definitions: dict[str, tuple[StoredTool, Definition]] = field(default_factory=dict)
    """By the tool's name."""
    tools: dict[str, Tool] = field(default_factory=dict)
    """Of those definitions; none is open yet."""
    bad: dict[str, ToolDefinitionError] = field(default_factory=dict)
    """By what the tool would have been called, where no other one is called so."""
    problems: list[ToolDefinitionError] = field(default_factory=list)


def load(stored: Sequence[StoredTool]) -> Loaded:
    """Reads definitions in their order. Blocks for as long as that takes, imports included; starts nothing."""
    loaded = Loaded()
    for each in stored:
        try:
            definition = parse(each)
        except BadDefinition as bad:
            loaded.problems.append(bad.error)
            loaded.bad.setdefault(bad.name, bad.error)
            continue
        if definition.name in loaded.definitions:
            first, _ = loaded.definitions[definition.name]
            message = (
                f"{each.path}:1: name: {first.path} defines a tool {definition.name} already, which is the one taken"
            )
            loaded.problems.append(ToolDefinitionError(message))
            continue
        loaded.definitions[definition.name] = each, definition
        loaded.tools[definition.name] = _tool(definition)
    return loaded


def _tool(definition: Definition) -> Tool:
    if isinstance(definition, CliDefinition):
        from cellyard.codemode.tools.cli import CliTool

        return CliTool(definition)
    if isinstance(definition, HttpDefinition):
        from cellyard.codemode.tools.http_calls import HttpTool

        return HttpTool(definition)
    from cellyard.codemode.tools.mcp_tool import McpTool

    return McpTool(definition)
