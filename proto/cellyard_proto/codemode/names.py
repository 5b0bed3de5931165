"""Names that code mode's sides agree on."""

from __future__ import annotations

TOOLS, WORKFLOWS, ARTIFACTS, DEPS = "codemode.tools", "codemode.workflows", "codemode.artifacts", "codemode.deps"
"""The functions by which running code reaches its namespaces. The first argument names the operation, all others are
keyword arguments."""

FUNCTIONS = frozenset({TOOLS, WORKFLOWS, ARTIFACTS, DEPS})

GLOBALS = ("tools", "workflows", "artifacts", "deps")
"""Under these names code finds them."""

WORKFLOW_METHODS = frozenset({"list", "search", "get", "create", "delete", "invoke"})
TOOL_METHODS = frozenset({"list", "search"})
RECIPE_METHODS = frozenset({"list"})
"""Names that no workflow, no tool, or no recipe of a tool can have: those of the namespaces' own methods."""
