"""What code mode keeps, and the interfaces of where it does: folders, Redis, a controller.

All of it blocks, and is called from threads; every object may be used from several at once, and several programs may
use one place: nothing that one of them has written is lost by another's write. Every method raises StorageError where
the place cannot be reached, read or written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from cellyard.codemode.storage.artifacts import Artifacts
    from cellyard.codemode.storage.library import WorkflowLibrary


@dataclass(frozen=True, slots=True)
class StoredWorkflow:
    """A workflow as it is kept."""

    name: str
    source: str
    description: str = ""
    """As it was given; empty where the source's own is meant."""


@dataclass(frozen=True, slots=True)
class StoredTool:
    """A tool's definition as it is kept: the text of a YAML file."""

    name: str
    """The file's name without its ending."""
    text: bytes
    path: str
    """What errors call it: the file's path, or what comes closest."""


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """An artifact without its content."""

    name: str
    path: str
    """Where it is: a file, or what comes closest."""
    description: str
    metadata: Mapping[str, Any]
    created_at: datetime
    """When it was written last (UTC)."""
    type: str
    """One of cellyard_proto.codemode.artifacts.TYPES."""
    size: int
    """Bytes of the content."""


class Content(Iterator[bytes], Protocol):
    """An artifact's content in pieces; closed by whoever has not read all of it."""

    def close(self) -> None: ...


class WorkflowStore(Protocol):
    """Keeps workflows by name. Names are checked by the caller (cellyard_proto.codemode.workflows.check_name)."""

    def list(self) -> list[StoredWorkflow]:
        """All of them, by name; also those that cannot be parsed."""
        ...

    def get(self, name: str) -> StoredWorkflow | None: ...

    def put(self, workflow: StoredWorkflow) -> None:
        """Keeps it, in place of one of the same name. Raises WorkflowValidationError for what cannot be parsed."""
        ...

    def remove(self, name: str) -> bool:
        """False where there is none."""
        ...


class ArtifactStore(Protocol):
    """Keeps artifacts by name. Names, types and metadata are checked by the caller."""

    def list(self) -> list[ArtifactInfo]:
        """All of them, by name."""
        ...

    def info(self, name: str) -> ArtifactInfo | None: ...

    def write(
        self, name: str, type_: str, pieces: Iterable[bytes], description: str, metadata: Mapping[str, Any]
    ) -> ArtifactInfo:
        """Keeps it once the last piece has come, in place of one of the same name; nobody sees a part of it.

        Raises ArtifactNameError where others lie below this name as a folder, or where this one would lie below
        another. What the pieces' iterator raises changes nothing that is kept, and is raised as it is.
        """
        ...

    def read(self, name: str) -> tuple[ArtifactInfo, Content]:
        """The content in pieces, of one and the same writing, whatever is written meanwhile.

        Raises ArtifactNotFoundError. The caller reads to the end, or calls the iterator's `close()`.
        """
        ...

    def remove(self, name: str) -> bool:
        """False where there is none."""
        ...


class ToolStore(Protocol):
    """Keeps definitions of tools by name."""

    def list(self) -> list[StoredTool]:
        """All of them, by name."""
        ...

    def put(self, tool: StoredTool) -> None: ...

    def remove(self, name: str) -> bool: ...


class DepsStore(Protocol):
    """Keeps requirements, at most one for a package; they come normalised (lower case, - for _) and checked."""

    def list(self) -> list[str]:
        """All of them, sorted."""
        ...

    def put(self, requirement: str) -> None:
        """Keeps it, in place of one for the same package."""
        ...

    def remove(self, package: str) -> bool:
        """False where there is none for this package."""
        ...


@runtime_checkable
class StorageBackend(Protocol):
    """Where a session keeps what outlives it."""

    @property
    def workspace_id(self) -> str | None:
        """The part of the place that this storage sees; None for the part without a name."""
        ...

    def get_workflow_store(self) -> WorkflowStore:
        """Where workflows are kept."""
        ...

    def get_artifact_backend(self) -> ArtifactStore:
        """Where artifacts are kept, as bytes."""
        ...

    def get_tool_store(self) -> ToolStore:
        """Where definitions of tools are kept."""
        ...

    def get_deps_store(self) -> DepsStore:
        """Where requirements are kept."""
        ...

    def get_workflow_library(self) -> WorkflowLibrary:
        """Workflows as sessions use them: listed, searched, created, removed."""
        ...

    def get_artifact_store(self) -> Artifacts:
        """Artifacts as sessions use them: values by name."""
        ...

    def close(self) -> None:
        """Lets go of files and connections; it can be used again."""
        ...
