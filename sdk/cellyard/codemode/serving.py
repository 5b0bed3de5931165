"""The client's end of code mode: serves the calls of running code, and those of the session itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from cellyard.codemode.deps import Deps
from cellyard.codemode.errors import ArtifactDataError, CodeModeError
from cellyard.codemode.search import default_search
from cellyard.codemode.storage.artifacts import Artifacts
from cellyard.codemode.storage.library import WorkflowLibrary
from cellyard.codemode.storage.protocols import ArtifactInfo
from cellyard.codemode.tools import ToolCall, ToolSet
from cellyard_proto.codemode import names

_T = TypeVar("_T")
_CHUNK = 1024 * 1024


class Serving:
    """Serves tools, workflows, artifacts and deps; see cellyard_proto.codemode.namespaces for what calls it."""

    def __init__(
        self,
        *,
        tools: ToolSet,
        workflows: WorkflowLibrary,
        artifacts: Artifacts,
        deps: Deps,
    ) -> None:
        self.tools, self.workflows, self.artifacts, self.deps = tools, workflows, artifacts, deps
        self._operations: dict[str, Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]] = {
            names.TOOLS: {"names": tools.names, "list": tools.list, "search": self.search_tools},
            names.WORKFLOWS: {
                "list": self.list_workflows,
                "search": self.search_workflows,
                "get": self.get_workflow,
                "create": self._create_workflow,
                "delete": self.remove_workflow,
            },
            names.ARTIFACTS: {
                "list": self.list_artifacts,
                "get": self._get_artifact,
                "exists": self._artifact_exists,
                "save": self._save_artifact,
                "load": self._load_artifact,
                "delete": self.delete_artifact,
            },
            names.DEPS: {"list": deps.list, "add": deps.add, "remove": deps.remove, "sync": deps.sync},
        }

    async def call(
        self, function: str, operation: str, arguments: dict[str, Any], *, notebook_id: str, execution_id: str
    ) -> Any:
        """See Host."""
        if function == names.TOOLS and operation == "call":
            return await self._call_tool(notebook_id, execution_id, **arguments)
        found = self._operations.get(function, {}).get(operation)
        if found is None:
            raise CodeModeError(f"{function} has no operation {str(operation)[:40]!r}")
        return await found(**arguments)

    async def save_file(self, local: Path, name: str, type_: str, description: str, metadata: Any) -> dict[str, Any]:
        """See Host."""

        def save() -> ArtifactInfo:
            with local.open("rb") as file:
                return self.artifacts.write(name, type_, iter(lambda: file.read(_CHUNK), b""), description, metadata)

        return _artifact(await asyncio.to_thread(save))

    async def load_file(self, name: str, local: Path) -> tuple[str, int]:
        """See Host."""

        def load() -> tuple[str, int]:
            info, pieces = self.artifacts.read(name)
            with closing(pieces), local.open("wb") as file:
                file.writelines(pieces)
            return info.type, info.size

        return await asyncio.to_thread(load)

    # Tools

    async def search_tools(self, query: str, limit: int = 10) -> list[dict[str, Any]]:
        """Tools that fit the query, best first."""
        tools = await self.tools.list()

        def rank() -> Sequence[int]:
            return default_search().rank(query, [_tool_text(tool) for tool in tools], limit)

        return [tools[index] for index in await asyncio.to_thread(rank)]

    async def _call_tool(
        self, notebook_id: str, execution_id: str, /, tool: str, recipe: str | None, arguments: dict[str, Any]
    ) -> Any:
        return await self.tools.call(ToolCall(tool, recipe, arguments, notebook_id, execution_id))

    # Workflows

    async def list_workflows(self) -> list[dict[str, Any]]:
        """All of them, without their sources."""
        return [found.summary() for found in await asyncio.to_thread(self.workflows.list)]

    async def search_workflows(self, query: str, limit: int = 10) -> list[dict[str, Any]]:
        """Those that fit the query, best first."""
        return [found.summary() for found in await asyncio.to_thread(self.workflows.search, query, limit)]

    async def get_workflow(self, name: str) -> dict[str, Any] | None:
        """One of them with its source, None where there is none."""
        found = await asyncio.to_thread(self.workflows.get, name)
        return None if found is None else found.as_data()

    async def add_workflow(self, name: str, source: str, description: str = "") -> dict[str, Any]:
        """Keeps one, in place of one of the same name. Raises WorkflowValidationError."""
        return (await asyncio.to_thread(self.workflows.create, name, source, description)).as_data()

    async def remove_workflow(self, name: str) -> bool:
        """False where there is none."""
        return await asyncio.to_thread(self.workflows.remove, name)

    async def _create_workflow(self, name: str, source: str, description: str = "") -> dict[str, Any]:
        return (await asyncio.to_thread(self.workflows.create, name, source, description)).summary()

    # Artifacts

    async def list_artifacts(self) -> list[dict[str, Any]]:
        """All of them, without their content."""
        return [_artifact(found) for found in await asyncio.to_thread(self.artifacts.list)]

    async def save_artifact(
        self, name: str, data: Any, description: str = "", metadata: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Keeps a value, in place of one of the same name. Raises ArtifactNameError, ArtifactDataError."""
        return _artifact(await asyncio.to_thread(self.artifacts.save, name, data, description, metadata))

    async def load_artifact(self, name: str) -> Any:
        """The value. Raises ArtifactNotFoundError, ArtifactNameError."""
        return await asyncio.to_thread(self.artifacts.load, name)

    async def delete_artifact(self, name: str) -> None:
        """Removes one, where there is one. Raises ArtifactNameError."""
        await asyncio.to_thread(self.artifacts.delete, name)

    async def _get_artifact(self, name: str) -> dict[str, Any] | None:
        found = await asyncio.to_thread(self.artifacts.get, name)
        return None if found is None else _artifact(found)

    async def _artifact_exists(self, name: str) -> bool:
        return await asyncio.to_thread(self.artifacts.exists, name)

    async def _save_artifact(
        self, name: str, data: Any = ..., description: str = "", metadata: Any = None
    ) -> dict[str, Any]:
        if data is ...:
            raise ArtifactDataError("there is nothing to save")
        return await self.save_artifact(name, data, description, metadata)

    async def _load_artifact(self, name: str) -> dict[str, Any]:
        return {"data": await self.load_artifact(name)}


def _artifact(info: ArtifactInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "path": info.path,
        "description": info.description,
        "metadata": dict(info.metadata),
        "created_at": info.created_at.isoformat(),
    }


def _tool_text(tool: Mapping[str, Any]) -> str:
    recipes = "\n".join(f"{each['name']} {each['description']}" for each in tool["callables"])
    return f"{tool['name']}\n{tool['description']}\n{' '.join(tool['tags'])}\n{recipes}"
