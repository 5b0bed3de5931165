"""Tools: commands, HTTP interfaces and MCP servers that running code calls, and that run at the client.

Nothing here imports what the extra `cellyard[codemode]` brings before a `ToolSet` starts.
"""

from cellyard.codemode.tools.calls import OnToolCall, ToolCall
from cellyard.codemode.tools.folder import read_folder
from cellyard.codemode.tools.toolset import ToolSet

__all__ = ["OnToolCall", "ToolCall", "ToolSet", "read_folder"]
