"""Packages for a kernel that runs: what is asked for, read, against what it has already. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from cellyard_controller.environments.definition import Definition, Present
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest

_LONGEST = 256
"""Characters of a name."""
_MOST = 5000
"""Packages, and lines of one package's metadata, that are believed to be there."""


def read_requirements(requirements: Sequence[str], bounds: Bounds) -> Definition:
    """What a client wants installed: names, extras and versions. Raises InvalidRequest."""
    if not requirements:
        raise InvalidRequest("nothing is to be installed")
    found = read_list(requirements, "", bounds)
    for listed in found.requirements:
        if " ; " in listed:
            raise InvalidRequest(f"{listed!r} has a marker: what is installed into a kernel has none")
    return found


def read_names(names: Sequence[str], bounds: Bounds) -> tuple[str, ...]:
    """What a client wants removed, each normalised. Raises InvalidRequest."""
    if not names or len(names) > bounds.requirements:
        raise InvalidRequest(f"1 to {bounds.requirements} packages can be removed at a time, not {len(names)}")
    read = []
    for name in names:
        try:
            if len(name) > _LONGEST:
                raise InvalidName
            read.append(str(canonicalize_name(name, validate=True)))
        except InvalidName:
            raise InvalidRequest(f"{name[:120]!r} is no name of a package") from None
    return tuple(dict.fromkeys(read))


def read_survey(said: str) -> tuple[Present, ...]:
    """What a sandbox says that it has, by name. Untrusted: what makes no sense is passed over."""
    found: dict[str, Present] = {}
    for line in said.splitlines():
        try:
            about = json.loads(line)
            name, version = str(canonicalize_name(about["name"], validate=True)), str(Version(about["version"]))
            requires = [_plain(each) for each in about["requires"][:_MOST]]
            extras = {str(canonicalize_name(each, validate=True)) for each in about["extras"][:_MOST]}
        except (ValueError, KeyError, TypeError, RecursionError, InvalidName, InvalidVersion):
            continue
        # The first is the one that is imported.
        if name not in found and len(found) < _MOST:
            kept = tuple(sorted({each for each in requires if each}))
            found[name] = Present(name, version, kept, tuple(sorted(extras)))
    return tuple(found[name] for name in sorted(found))


def missing(wanted: Definition, present: Sequence[Present], brought: Collection[str]) -> list[str]:
    """The requirements that what is there does not meet. `brought`: what of it was installed into the kernel.

    Raises EnvironmentFailed for one that another version stands against: nothing is replaced that may be loaded.
    """
    there = {each.name: each for each in present}
    left = []
    for listed in wanted.requirements:
        requirement = Requirement(listed)
        known = there.get(requirement.name)
        if known is not None and not requirement.specifier.contains(known.version, prereleases=True):
            remedy = (
                "uninstall that first"
                if known.name in brought
                else "it came with the kernel's environment: define one that has what is wanted"
            )
            raise EnvironmentFailed(
                f"the requirement {listed!r} cannot be had: the kernel has {known.name} {known.version}, which is not "
                f"replaced while it runs; {remedy}",
                requirement=listed,
                log="",
            )
        if known is None or requirement.extras:
            left.append(listed)
    return left


def for_present(wanted: Definition, requirements: Sequence[str], present: Sequence[Present]) -> Definition:
    """What has to be fetched, for a kernel that has this."""
    return Definition(wanted.tool, tuple(requirements), present=tuple(present))


def already(wanted: Definition, came: Collection[str]) -> tuple[str, ...]:
    """Which of what was asked for did not have to come."""
    return tuple(listed for listed in wanted.requirements if Requirement(listed).name not in came)


def _plain(text: str) -> str:
    """A requirement of a package's metadata, in one way; "" for what leads elsewhere or is none."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return ""
    return str(requirement) if requirement.url is None and str(requirement).isprintable() else ""
