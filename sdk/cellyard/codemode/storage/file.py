"""Storage in a folder, laid out so that people and other programs can read it, and write it by hand.

    workflows/NAME.py             sources; their descriptions in .workflows.json
    artifacts/NAME                contents; the rest in .artifacts.json
    tools/NAME.yaml
    deps/requirements.txt

A workspace has workflows and artifacts of its own, in workspaces/ID; tools and requirements are everybody's.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cellyard.codemode.errors import StorageError, ToolDefinitionError
from cellyard.codemode.storage import names
from cellyard.codemode.storage.backend import Backend
from cellyard.codemode.storage.file_artifacts import FileArtifacts
from cellyard.codemode.storage.files import told
from cellyard.codemode.storage.folders import Folder, Place
from cellyard.codemode.storage.index import Index
from cellyard.codemode.storage.protocols import StoredTool, StoredWorkflow
from cellyard_proto.codemode import workflows

_log = logging.getLogger("cellyard.codemode")

MAX_TOOL = 16 << 20
"""Bytes of a tool's file. One that is larger is cut, and what reads it refuses it long before that."""
_MAX_REQUIREMENTS = 16 << 20
_ENDINGS = (".yaml", ".yml")


class FileStorage(Backend):
    """Keeps everything below a folder. It may be used by several threads and programs at once."""

    def __init__(self, base_path: str | os.PathLike[str], workspace_id: str | None = None) -> None:
        """`base_path` is made where it is missing; ~ is the user's home.

        Raises InvalidRequest for a wrong workspace_id, StorageError where there can be no such folder.
        """
        super().__init__(workspace_id)
        if not os.fspath(base_path):
            raise StorageError("a storage's folder has a name, and this is an empty one")
        base = Path(base_path)
        try:
            self._root = base.expanduser().resolve()
        except (RuntimeError, ValueError, OSError) as bad:
            raise StorageError(f"{base}: {bad}") from None
        with told(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
        scope = () if self._workspace_id is None else ("workspaces", self._workspace_id)
        self._workflows = FileWorkflows(Place(self._root, *scope, "workflows"))
        self._artifacts = FileArtifacts(Place(self._root, *scope, "artifacts"))
        self._tools = FileTools(Place(self._root, "tools"))
        self._deps = FileDeps(Place(self._root, "deps"))

    def __repr__(self) -> str:
        scope = "" if self._workspace_id is None else f", workspace_id={self._workspace_id!r}"
        return f"FileStorage({str(self._root)!r}{scope})"

    @property
    def root(self) -> Path:
        """The folder, whatever the workspace."""
        return self._root


class FileWorkflows:
    """Workflows as files. One whose name begins with _ is one of ours only if it was put there by `put`."""

    _INDEX = ".workflows.json"
    # A character takes at most four bytes; what is longer is not read to its end, only to where it is refused.
    _LIMIT = 4 * workflows.MAX_SOURCE + 1

    def __init__(self, place: Place) -> None:
        self._place = place

    def list(self) -> list[StoredWorkflow]:
        found = []
        with self._place.reading() as folder:
            if folder is None:
                return []
            index = Index(folder, self._INDEX)
            for entry in folder.names():
                name, ending = os.path.splitext(entry.name)
                if ending != ".py" or not _is_name(name):
                    continue
                with folder.left_out(entry):
                    stored = self._one(folder, index, name)
                    if stored is not None:
                        found.append(stored)
        return found

    def get(self, name: str) -> StoredWorkflow | None:
        names.workflow(name)
        with self._place.reading() as folder:
            return None if folder is None else self._one(folder, Index(folder, self._INDEX), name)

    def put(self, workflow: StoredWorkflow) -> None:
        names.parsed(workflow)
        with self._place.writing() as folder, folder.fresh() as file, told(self._place.path):
            file.write(workflow.source.encode())
            file.sync()
            with folder.locked():
                index = Index(folder, self._INDEX)
                _refuse_others(folder, f"{workflow.name}.py")
                index.put(file, workflow.name, (f"{workflow.name}.py",), {"description": workflow.description})

    def remove(self, name: str) -> bool:
        names.workflow(name)
        with self._place.reading() as there:
            if there is None:
                return False
        with self._place.writing() as folder, told(self._place.path), folder.locked():
            index = Index(folder, self._INDEX)
            if self._one(folder, index, name) is None:
                return False
            index.remove(name, (f"{name}.py",))
        return True

    def _one(self, folder: Folder, index: Index, name: str) -> StoredWorkflow | None:
        entry = index.get(name)
        if name.startswith("_") and not entry:
            return None
        source = folder.read((f"{name}.py",), self._LIMIT)
        if source is None:
            return None
        description = entry.get("description")
        # What is no UTF-8 becomes what no source can hold, so that whoever parses it refuses it.
        text = source.decode(errors="surrogateescape")
        return StoredWorkflow(name, text, description if isinstance(description, str) else "")


class FileTools:
    """Definitions of tools as YAML files, which are the users' own: there is no index."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def list(self) -> list[StoredTool]:
        found: dict[str, StoredTool] = {}
        with self._place.reading() as folder:
            if folder is None:
                return []
            for entry in sorted(folder.names(), key=lambda each: _ENDINGS.index(_ending(each.name) or ".yml")):
                name, ending = os.path.splitext(entry.name)
                path = self._place.path / entry.name
                if ending not in _ENDINGS or not _is_tool(name):
                    continue
                if name in found:
                    _log.warning("%s is left out: there is %s already", path, found[name].path)
                    continue
                with folder.left_out(entry):
                    text = folder.read((entry.name,), MAX_TOOL)
                    if text is not None:
                        found[name] = StoredTool(name, text, str(path))
        return [found[name] for name in sorted(found)]

    def put(self, tool: StoredTool) -> None:
        names.tool(tool.name)
        with self._place.writing() as folder, folder.fresh() as file, told(self._place.path):
            file.write(tool.text)
            file.sync()
            with folder.locked():
                _refuse_others(folder, f"{tool.name}.yaml")
                folder.put(file, (f"{tool.name}.yaml",))
                if (other := folder.look((f"{tool.name}.yml",))) is not None and stat.S_ISREG(other.st_mode):
                    folder.remove((f"{tool.name}.yml",))

    def remove(self, name: str) -> bool:
        names.tool(name)
        removed = False
        with self._place.reading() as there:
            if there is None:
                return False
        with self._place.writing() as folder, told(self._place.path), folder.locked():
            for ending in _ENDINGS:
                found = folder.look((name + ending,))
                if found is not None and stat.S_ISREG(found.st_mode):
                    folder.remove((name + ending,))
                    removed = True
        return removed


class FileDeps:
    """Requirements as a requirements.txt, sorted. Comments stay, at its top."""

    _FILE = ("requirements.txt",)

    def __init__(self, place: Place) -> None:
        self._place = place

    def list(self) -> list[str]:
        with self._place.reading() as folder:
            return [] if folder is None else sorted(self._read(folder)[1].values())

    def put(self, requirement: str) -> None:
        package = names.package(requirement)
        with self._place.writing() as folder, told(self._place.path), folder.locked():
            comments, kept = self._read(folder)
            self._write(folder, comments, {**kept, package: requirement})

    def remove(self, package: str) -> bool:
        removed = names.package(package)
        with self._place.reading() as folder:
            if folder is None or removed not in self._read(folder)[1]:
                return False
        with self._place.writing() as folder, told(self._place.path), folder.locked():
            comments, kept = self._read(folder)
            if kept.pop(removed, None) is None:
                return False
            self._write(folder, comments, kept)
        return True

    def _read(self, folder: Folder) -> tuple[Sequence[str], dict[str, str]]:
        """Comments, and requirements by package."""
        text = (folder.read(self._FILE, _MAX_REQUIREMENTS) or b"").decode(errors="replace")
        lines = [line.strip() for line in text.splitlines()]
        kept: dict[str, str] = {}
        for line in lines:
            if line and not line.startswith("#"):
                requirement = line.split(" #", 1)[0].rstrip()
                kept[_package_or_line(requirement)] = requirement
        return [line for line in lines if line.startswith("#")], kept

    def _write(self, folder: Folder, comments: Sequence[str], kept: dict[str, str]) -> None:
        with folder.fresh() as file:
            file.write("".join(f"{line}\n" for line in (*comments, *sorted(kept.values()))).encode())
            file.sync()
            folder.put(file, self._FILE)


def _refuse_others(folder: Folder, file: str) -> None:
    """Only a file may be replaced: neither a folder nor a link. Raises StorageError."""
    found = folder.look((file,))
    if found is not None and not stat.S_ISREG(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no file"
        raise StorageError(f"{folder.path / file} is {what}, and stays as it is")


def _ending(file: str) -> str | None:
    ending = os.path.splitext(file)[1]
    return ending if ending in _ENDINGS else None


def _is_name(name: str) -> bool:
    try:
        names.workflow(name)
    except ValueError:
        return False
    return True


def _is_tool(name: str) -> bool:
    try:
        names.tool(name)
    except ToolDefinitionError:
        return False
    return True


def _package_or_line(requirement: str) -> str:
    """What somebody wrote by hand and that names no package is its own key: it is kept, and refused by who reads it."""
    try:
        return names.package(requirement)
    except ValueError:
        return requirement
