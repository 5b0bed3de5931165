"""Which environment a kernel is asked for: from the notebook's metadata and the files beside the notebook.

Only this side sees those files. What is found travels as content (kernels.proto, EnvironmentDefinition), never as a
path, and the controller checks it again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from cellyard.errors import InvalidRequest
from cellyard_proto.environments import Inline, Malformed, inline
from cellyard_proto.v1 import kernels_pb2

PROJECT_FILES = {
    "pyproject.toml": "uv:pyproject",
    "pixi.toml": "pixi:toml",
    "environment.yml": "conda:env_yml",
    "environment.yaml": "conda:env_yml",
}
"""In the order in which they count in one folder."""
LARGEST = 1024 * 1024
"""Bytes of a project file."""
_FROM_METADATA = ("auto", "uv:inline", "conda:inline")


def reads_metadata(kernel_type: str, env_source: str) -> bool:
    """Whether `choose` needs the notebook's metadata."""
    return kernel_type == "python" and env_source in _FROM_METADATA


def choose(
    kernel_type: str,
    env_source: str,
    metadata: str | None,
    notebook_path: str | os.PathLike[str] | None,
    *,
    home: Path | None = None,
) -> kernels_pb2.KernelSettings:
    """Kernel type, environment and what defines it, with nothing else set.

    `auto` is what the metadata lists, else the project file closest to `notebook_path`, up to a folder with `.git` or
    the home folder, else `auto` still, which the controller makes `uv:prewarmed`. A source that is named has to be
    there: a file is looked for from the current folder where no path is given.

    Raises InvalidRequest for what is named and not there, for dependencies that are none and unreadable files.
    """
    settings = kernels_pb2.KernelSettings(kernel_type=kernel_type, env_source=env_source)
    if kernel_type != "python":
        return settings
    top = Path.home() if home is None else home
    try:
        if env_source == "auto":
            found = inline(metadata)
            if found is not None:
                _take_inline(settings, found)
            elif notebook_path is not None:
                _take_file(settings, _closest(notebook_path, top, PROJECT_FILES))
        elif env_source in ("uv:inline", "conda:inline"):
            tool = env_source.partition(":")[0]
            found = inline(metadata, (tool,))
            if found is None:
                raise InvalidRequest(f"{env_source} was asked for, and the notebook's metadata has no runt.{tool}")
            _take_inline(settings, found)
        elif env_source in PROJECT_FILES.values():
            names = [name for name, source in PROJECT_FILES.items() if source == env_source]
            path = _closest(notebook_path if notebook_path is not None else os.curdir, top, names)
            if path is None:
                raise InvalidRequest(f"{env_source} was asked for, and there is no {' or '.join(names)}")
            _take_file(settings, path)
    except Malformed as malformed:
        raise InvalidRequest(str(malformed)) from None
    return settings


def _take_inline(settings: kernels_pb2.KernelSettings, found: Inline) -> None:
    settings.env_source = found.env_source
    listed = settings.environment.dependencies
    try:
        listed.requirements.extend(found.requirements)
        listed.channels.extend(found.channels)
        listed.requires_python = found.requires_python
    except ValueError:  # half of a surrogate pair, which JSON can carry and UTF-8 cannot
        raise InvalidRequest("the dependencies in the notebook's metadata are no text") from None


def _take_file(settings: kernels_pb2.KernelSettings, path: Path | None) -> None:
    if path is None:
        return
    settings.env_source = PROJECT_FILES[path.name]
    settings.environment.project_file.name = path.name
    settings.environment.project_file.content = _read(path)


def _closest(start: str | os.PathLike[str], home: Path, names: Collection[str]) -> Path | None:
    for folder in _upwards(start, home):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    return None


def _upwards(start: str | os.PathLike[str], home: Path) -> Iterator[Path]:
    """The folder of a notebook, be it there or not, and those above it."""
    path = Path(os.path.abspath(os.fspath(start)))
    for folder in (path, *path.parents):
        yield folder
        if folder == home or (folder / ".git").exists():
            return


def _read(path: Path) -> str:
    try:
        # A pipe of that name must not hold the session up.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidRequest(f"{path} is no plain file")
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InvalidRequest(f"{path} is larger than {LARGEST} bytes")
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not in UTF-8") from None
    except OSError as failed:
        raise InvalidRequest(f"{path} cannot be read: {failed.strerror}") from None
