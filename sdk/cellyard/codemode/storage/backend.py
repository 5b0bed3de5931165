"""What all storages share: they hand out the parts that they are made of."""

from __future__ import annotations

from functools import cached_property

from cellyard.codemode.storage import names
from cellyard.codemode.storage.artifacts import Artifacts
from cellyard.codemode.storage.library import WorkflowLibrary
from cellyard.codemode.storage.protocols import ArtifactStore, DepsStore, ToolStore, WorkflowStore


class Backend:
    """See StorageBackend. Made with its workspace; whoever derives from it gives it its parts."""

    _workflows: WorkflowStore
    _artifacts: ArtifactStore
    _tools: ToolStore
    _deps: DepsStore

    def __init__(self, workspace_id: str | None) -> None:
        """Raises InvalidRequest for a workspace_id that can be none."""
        self._workspace_id = names.workspace(workspace_id)

    @property
    def workspace_id(self) -> str | None:
        """The part that this storage sees; None for the part without a name."""
        return self._workspace_id

    def get_workflow_store(self) -> WorkflowStore:
        """Workflows as they are kept."""
        return self._workflows

    def get_artifact_backend(self) -> ArtifactStore:
        """Artifacts as bytes."""
        return self._artifacts

    def get_tool_store(self) -> ToolStore:
        """Definitions of tools."""
        return self._tools

    def get_deps_store(self) -> DepsStore:
        """Requirements."""
        return self._deps

    def get_workflow_library(self) -> WorkflowLibrary:
        """Workflows, parsed and searched."""
        return self._library

    def get_artifact_store(self) -> Artifacts:
        """Artifacts as values."""
        return Artifacts(self._artifacts)

    def close(self) -> None:
        """Lets go of files and connections; it can be used again."""

    @cached_property
    def _library(self) -> WorkflowLibrary:
        return WorkflowLibrary(self._workflows)
