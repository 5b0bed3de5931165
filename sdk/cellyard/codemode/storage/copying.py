"""What two storages have in common and what not, and taking things from one to the other."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from cellyard.codemode.storage import names
from cellyard.codemode.storage.protocols import ArtifactInfo, StorageBackend, StoredTool, StoredWorkflow


class Type(StrEnum):
    """What a storage keeps."""

    WORKFLOWS = "workflows"
    ARTIFACTS = "artifacts"
    TOOLS = "tools"
    DEPS = "deps"


class Difference(StrEnum):
    """What a thing is in a second storage, compared to a first."""

    MISSING = "+"
    """It would be added to the second."""
    ADDITIONAL = "-"
    """Only the second has it."""
    OTHER = "~"
    SAME = "="


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that a storage keeps."""

    type: Type
    name: str
    """For requirements, the package's."""
    value: StoredWorkflow | ArtifactInfo | StoredTool | str

    @property
    def description(self) -> str:
        """As it is kept; for requirements, the requirement."""
        match self.value:
            case str(requirement):
                return requirement
            case StoredTool(path=path):
                return path
            case StoredWorkflow(description=description) | ArtifactInfo(description=description):
                return description


def things(storage: StorageBackend, types: Collection[Type]) -> Iterator[Thing]:
    """What a storage has, type by type, by name. Raises StorageError."""
    if Type.WORKFLOWS in types:
        yield from (Thing(Type.WORKFLOWS, each.name, each) for each in storage.get_workflow_store().list())
    if Type.ARTIFACTS in types:
        yield from (Thing(Type.ARTIFACTS, each.name, each) for each in storage.get_artifact_backend().list())
    if Type.TOOLS in types:
        yield from (Thing(Type.TOOLS, each.name, each) for each in storage.get_tool_store().list())
    if Type.DEPS in types:
        yield from (Thing(Type.DEPS, _package(each), each) for each in storage.get_deps_store().list())


def differences(
    source: StorageBackend, target: StorageBackend | None, types: Collection[Type]
) -> Iterator[tuple[Difference, Thing]]:
    """Everything that one of two storages has, or both, type by type, by name; no target is an empty one.

    When an artifact was written is no difference. Raises StorageError.
    """
    there = {(each.type, each.name): each for each in things(target, types)} if target is not None else {}
    found: list[tuple[Difference, Thing]] = []
    for each in things(source, types):
        other = there.pop((each.type, each.name), None)
        if target is None or other is None:
            found.append((Difference.MISSING, each))
        else:
            same = _are_same(source, each, target, other)
            found.append((Difference.SAME if same else Difference.OTHER, each))
    found += [(Difference.ADDITIONAL, each) for each in there.values()]
    order = list(Type)
    yield from sorted(found, key=lambda pair: (order.index(pair[1].type), pair[1].name))


def copy(source: StorageBackend, target: StorageBackend, thing: Thing) -> None:
    """Takes something over, in place of what is called so. An artifact's time becomes that of its copy.

    Raises StorageError, and what the target refuses: WorkflowValidationError, ArtifactNameError, DependencyError.
    """
    match thing.value:
        case StoredWorkflow():
            target.get_workflow_store().put(thing.value)
        case StoredTool():
            target.get_tool_store().put(thing.value)
        case str(requirement):
            target.get_deps_store().put(requirement)
        case ArtifactInfo():
            info, pieces = source.get_artifact_backend().read(thing.name)
            with closing(cast(Any, pieces)):
                target.get_artifact_backend().write(info.name, info.type, pieces, info.description, info.metadata)


def _are_same(source: StorageBackend, one: Thing, target: StorageBackend, other: Thing) -> bool:
    match one.value, other.value:
        case StoredTool() as mine, StoredTool() as theirs:
            return mine.text == theirs.text
        case ArtifactInfo() as mine, ArtifactInfo() as theirs:
            known = [(each.description, each.metadata, each.type, each.size) for each in (mine, theirs)]
            return known[0] == known[1] and _digest(source, mine.name) == _digest(target, theirs.name)
    return one.value == other.value


def _digest(storage: StorageBackend, name: str) -> bytes:
    digest = hashlib.sha256()
    with closing(cast(Any, storage.get_artifact_backend().read(name)[1])) as pieces:
        for piece in pieces:
            digest.update(piece)
    return digest.digest()


def _package(requirement: str) -> str:
    """What names no package is somebody's own line: its own name."""
    try:
        return names.package(requirement)
    except ValueError:
        return requirement
