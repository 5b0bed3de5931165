"""Reads what clients send to define an environment, and refuses what would lead anywhere but to the index: pure.

Only names, versions and markers of PEP 508 are taken. Places (URLs, `file:`, paths), options, and settings that choose
another index are refused, and the message names the line. So nothing that a client sends makes the controller read a
file of its machine, run a program, or ask a server that its operator has not named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.definition import Definition
from cellyard_controller.environments.toml import parse_toml
from cellyard_controller.errors import InvalidRequest

_LONGEST = 1000
"""Characters of one requirement."""
_SHOWN = 120
_ELSEWHERE = ("index", "index-url", "default-index", "extra-index-url", "find-links", "no-index", "pip")
_CHANGING = ("override-dependencies", "constraint-dependencies", "exclude-dependencies")
_PATH = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of it is read."""

    file_bytes: int
    requirements: int

    @classmethod
    def of(cls, config: EnvironmentsConfig) -> Bounds:
        """As the operator has them."""
        return cls(config.definition, config.requirements)


def read_list(requirements: Sequence[str], requires_python: str, bounds: Bounds) -> Definition:
    """A list, as it stands in a notebook's metadata. Raises InvalidRequest."""
    _check_size(sum(len(each.encode()) for each in requirements), "the dependencies", bounds)
    return _definition(
        [(f"dependency {at}", each) for at, each in enumerate(requirements, start=1)], requires_python, bounds
    )


def read_pyproject(content: str, bounds: Bounds) -> Definition:
    """A pyproject.toml: `project.dependencies` and `project.requires-python`. Raises InvalidRequest."""
    _check_size(len(content.encode()), "pyproject.toml", bounds)
    root = parse_toml(content, "pyproject.toml")
    project = _table(root, "project")
    if "dependencies" in _strings(project, "dynamic"):
        raise InvalidRequest(
            f"pyproject.toml, {_line(content, 'dynamic')}: its dependencies are dynamic, and only this file is read"
        )
    listed = _strings(project, "dependencies")
    requires_python = project.get("requires-python", "")
    if not isinstance(requires_python, str):
        raise InvalidRequest("pyproject.toml: requires-python is no string")
    found = _definition([(f"pyproject.toml, {_line(content, each)}", each) for each in listed], requires_python, bounds)
    _check_tool(_table(_table(root, "tool"), "uv"), content, found)
    return found


def _check_tool(table: dict[str, Any], content: str, found: Definition) -> None:
    for name in _ELSEWHERE:
        if table.get(name):
            raise InvalidRequest(
                f"pyproject.toml, {_line(content, name)}: tool.uv.{name} is refused: the index is the operator's choice"
            )
    for name in _CHANGING:
        if table.get(name):
            raise InvalidRequest(f"pyproject.toml, {_line(content, name)}: tool.uv.{name} is not supported")
    wanted = {canonicalize_name(Requirement(each).name) for each in found.requirements}
    for name in _table(table, "sources"):
        if canonicalize_name(name) in wanted:
            raise InvalidRequest(
                f"pyproject.toml, {_line(content, name)}: tool.uv.sources names a place for {name[:_SHOWN]!r}: only "
                "packages of the operator's index can be had"
            )


def _definition(listed: Sequence[tuple[str, str]], requires_python: str, bounds: Bounds) -> Definition:
    if len(listed) > bounds.requirements:
        raise InvalidRequest(f"{len(listed)} dependencies are listed; at most {bounds.requirements} are allowed")
    requirements = {_requirement(where, text) for where, text in listed}
    try:
        versions = ",".join(sorted(str(each) for each in SpecifierSet(requires_python[: _LONGEST + 1])))
    except InvalidSpecifier:
        raise InvalidRequest(f"requires-python is no set of versions: {requires_python[:_SHOWN]!r}") from None
    return Definition("uv", tuple(sorted(requirements)), versions)


def _requirement(where: str, text: str) -> str:
    """One requirement, in the one way to spell it."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    given = text.strip()
    if len(text) > _LONGEST or not given.isprintable():
        raise InvalidRequest(f"{where}: {shown!r} is no requirement")
    if given.startswith("-"):
        raise InvalidRequest(f"{where}: {shown!r} is an option, and options are refused")
    if _PATH.match(given) or "://" in given.partition(";")[0] or "file:" in given.lower():
        raise InvalidRequest(f"{where}: {shown!r} names a place: only names and versions can be had")
    try:
        found = Requirement(given)
    except InvalidRequirement:
        raise InvalidRequest(f"{where}: {shown!r} is no requirement as PEP 508 has them") from None
    if found.url is not None:
        raise InvalidRequest(f"{where}: {shown!r} names a place: only names and versions can be had")
    extras = f"[{','.join(sorted(canonicalize_name(extra) for extra in found.extras))}]" if found.extras else ""
    versions = ",".join(sorted(str(each) for each in found.specifier))
    marker = f" ; {found.marker}" if found.marker is not None else ""
    return f"{canonicalize_name(found.name)}{extras}{versions}{marker}"


def _check_size(size: int, what: str, bounds: Bounds) -> None:
    if size > bounds.file_bytes:
        raise InvalidRequest(f"{what}: {size} bytes, at most {bounds.file_bytes} are allowed")


def _table(parent: dict[str, Any], name: str) -> dict[str, Any]:
    value = parent.get(name, {})
    if not isinstance(value, dict):
        raise InvalidRequest(f"pyproject.toml: {name} is no table")
    return value


def _strings(table: dict[str, Any], name: str) -> list[str]:
    value = table.get(name, [])
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidRequest(f"pyproject.toml: project.{name} is no list of strings")
    return value


def _line(content: str, text: str) -> str:
    """Where this stands in the file, as well as can be told: "line 7"."""
    for number, line in enumerate(content.splitlines(), start=1):
        if text in line:
            return f"line {number}"
    return "line unknown"


def read_requirement(where: str, text: str) -> str:
    """One requirement, in the one way to spell it; `where` begins what is said of one that is refused.

    Raises InvalidRequest.
    """
    return _requirement(where, text)
