"""Packages that sessions may be asked for: names, extras and versions, and nothing else."""

from __future__ import annotations

import re

from cellyard_proto.codemode.errors import DependencyError

MAX_LENGTH = 256
"""Characters of a requirement."""

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_EXTRAS = rf"\[ *{_NAME}(?: *, *{_NAME})* *\]"
_VERSION = r"(?:===|==|~=|!=|<=|>=|<|>) *[A-Za-z0-9][A-Za-z0-9.*+!_-]*"
_REQUIREMENT = re.compile(rf"({_NAME}) *({_EXTRAS})? *((?:{_VERSION}(?: *, *{_VERSION})*)?)", re.ASCII)


def normalise(requirement: object) -> str:
    """A requirement as it is kept: the name in lower case and with -, no spaces.

    Raises DependencyError for URLs, paths, options, markers, and whatever is no name with extras and versions.
    """
    if not isinstance(requirement, str):
        raise DependencyError(f"a package is a str like 'pandas>=2', not {type(requirement).__name__}")
    found = None if len(requirement) > MAX_LENGTH else _REQUIREMENT.fullmatch(requirement.strip(" "))
    if found is None:
        raise DependencyError(
            f"a package is a name with extras and versions, like 'pandas[excel]>=2,<3', not {requirement[:100]!r}"
        )
    name, extras, versions = found.groups(default="")
    return (_normal(name) + extras + versions).replace(" ", "")


def package(requirement: str) -> str:
    """The name of the package that is asked for, as PEP 503 normalises it."""
    found = re.match(_NAME, requirement.strip())
    return _normal(found.group()) if found else ""


def from_file(text: str, what: str) -> list[str]:
    """The requirements of a requirements.txt. Raises DependencyError, which names the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        wanted = re.sub(r"(^|\s)#.*", "", line).strip()
        if wanted:
            try:
                found.append(normalise(wanted))
            except DependencyError as bad:
                raise DependencyError(f"{what}, line {number}: {bad}") from None
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
