"""What all storages refuse alike, and how they say it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cellyard.codemode.errors import ArtifactNameError, DependencyError, ToolDefinitionError, made_public
from cellyard.codemode.storage.protocols import StoredWorkflow
from cellyard.errors import InvalidRequest
from cellyard_proto.codemode import artifacts, workflows
from cellyard_proto.codemode.workflows import Workflow

_WORKSPACE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAX_TOOL = 200


def workspace(workspace_id: object) -> str | None:
    """A workspace's id, None for the part of a place that has no name. Raises InvalidRequest."""
    if workspace_id is None:
        return None
    if not isinstance(workspace_id, str) or not _WORKSPACE.fullmatch(workspace_id):
        shown = repr(workspace_id)[:100]
        raise InvalidRequest(f"a workspace_id has 1 to 64 of the characters A-Z, a-z, 0-9, _ and -, not {shown}")
    return workspace_id


def workflow(name: str) -> str:
    """A workflow's name. Raises WorkflowValidationError."""
    with made_public():
        return workflows.check_name(name)


def parsed(stored: StoredWorkflow) -> Workflow:
    """A workflow that is about to be kept. Raises WorkflowValidationError."""
    with made_public():
        return workflows.parse(stored.name, stored.source, stored.description)


def artifact(name: str) -> str:
    """An artifact's name. Raises ArtifactNameError."""
    with made_public():
        return artifacts.check_name(name)


def above(name: str) -> Iterable[str]:
    """The names of the folders that an artifact lies in, the outermost first."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


def is_folder(name: str) -> ArtifactNameError:
    """No artifact can have the name of a folder of artifacts."""
    return ArtifactNameError(f"{name!r} is a folder of artifacts, and cannot be an artifact too")


def is_artifact(name: str, wanted: str) -> ArtifactNameError:
    """Nothing can lie below an artifact."""
    return ArtifactNameError(f"{name!r} is an artifact, so nothing can be below it, such as {wanted!r}")


def tool(name: object) -> str:
    """The name of a tool's file, without its ending. Raises ToolDefinitionError."""
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not 0 < len(name.encode()) <= _MAX_TOOL
        or name.startswith(".")
        or "/" in name
        or "\\" in name
    ):
        raise ToolDefinitionError(f"no file of a tool can be called {str(name)[:100]!r}")
    return name


def package(requirement: object) -> str:
    """What a requirement is for: lower case, with - for each of _ and runs of . and -. Raises DependencyError."""
    found = _PACKAGE.match(requirement) if isinstance(requirement, str) and "\n" not in requirement else None
    if found is None:
        raise DependencyError(f"no package is called {str(requirement)[:100]!r}")
    return re.sub(r"[-_.]+", "-", found[0]).lower()
