"""Conda packages for tests that start a kernel from them: an image's own interpreter, and what a kernel stands on."""

from __future__ import annotations

import io
import json
import tarfile
from importlib.metadata import PackagePath, distribution
from typing import Any

import docker
from packaging.requirements import Requirement

from tests.conda_channel import PLACEHOLDER, CondaChannel, File, Link

_DONE_WITHOUT = {"psutil", "jedi", "parso"}
"""What IPython can do without: it is not pure, or large."""
_LEXERS = {"__init__.py", "_mapping.py", "python.py"}
"""Pygments has hundreds more."""
_TELL = """
import json, os, platform, sys, sysconfig
name = "python" + ".".join(platform.python_version_tuple()[:2])
print(json.dumps([name, platform.python_version(), os.path.realpath(sys.executable), sysconfig.get_path("stdlib")]))
"""
_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "ensurepip", "tkinter", "turtledemo", "__pycache__", "pydoc_data"}
_CUSTOM = """
import sys
here = "PLACEHOLDER/lib/NAME/site-packages"
if here not in sys.path:
    sys.path.append(here)  # Debian's own looks elsewhere
"""


def add_python(channel: CondaChannel, image: str) -> str:
    """The interpreter of an image as the package `python`; returns its version."""
    client = docker.from_env(timeout=60)
    container = client.containers.create(image, ["python3", "-I", "-S", "-c", _TELL], network_mode="none")
    try:
        container.start()
        container.wait()
        name, version, program, library = json.loads(container.logs(stderr=False))
        content: dict[str, File | Link] = {f"bin/{name}": next(iter(_files(container, program).values()))}
        for path, file in _files(container, library).items():
            parts = path.split("/")[1:]
            left_out = any(each in _LEFT_OUT or each.endswith("-packages") for each in parts[:-1])
            if not left_out and not parts[0].startswith("config-") and parts[-1] != "sitecustomize.py":
                content[f"lib/{name}/{'/'.join(parts)}"] = file
    finally:
        container.remove(force=True)
        client.close()
    custom = _CUSTOM.replace("PLACEHOLDER", PLACEHOLDER).replace("NAME", name)
    content |= {
        "bin/python": Link(name),
        "bin/python3": Link(name),
        "lib/gone": Link("/etc"),
        f"lib/{name}/sitecustomize.py": File(custom.encode(), prefix="text"),
    }
    channel.add("python", version, content, noarch=False, newer=True)
    return str(version)


def _files(container: Any, path: str) -> dict[str, File]:
    """The plain files there, by their names below the folder above it."""
    chunks, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        return {
            member.name: File(archive.extractfile(member).read(), 0o755 if member.mode & 0o100 else 0o644)  # type: ignore[union-attr]
            for member in archive
            if member.isfile()
        }


def _wanted(path: PackagePath) -> bool:
    if path.parent.name == "lexers" and path.name not in _LEXERS:
        return False
    return path.suffix not in (".pyc", ".pyi") and not {"..", "tests"} & set(path.parts)


def add_kernel(channel: CondaChannel) -> None:
    """IPython and comm, and what they need, from where these tests run."""
    waiting, known = ["ipython", "comm"], set(_DONE_WITHOUT)
    while waiting:
        name = waiting.pop()
        if name in known:
            continue
        known.add(name)
        found = distribution(name)
        needs = []
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needs.append(requirement.name.lower())
        content = {
            f"site-packages/{path}": File(path.locate().read_bytes()) for path in found.files or () if _wanted(path)
        }
        channel.add(name, found.version, content, ["python", *(each for each in needs if each not in _DONE_WITHOUT)])
        waiting += needs
