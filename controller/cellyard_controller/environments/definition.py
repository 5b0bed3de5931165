"""What defines an environment, and what it is called by: pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.specifiers import SpecifierSet

from cellyard_controller.errors import EnvironmentFailed

_RECIPE = 1
"""Counts the ways in which folders were made: one that was made in another way is made anew."""


@dataclass(frozen=True, slots=True)
class Present:
    """A package that is there already, as its metadata tells. Checked, and spelled in one way."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Definition:
    """What is to be there, checked, each thing spelled in one way and in one order."""

    tool: str
    """Who resolves it: `uv` or `conda`."""
    requirements: tuple[str, ...]
    """As PEP 508 has them, or as conda does: NAME [VERSION [BUILD]]. Sorted, each once."""
    requires_python: str = ""
    """Of uv's: a set of versions as PEP 440 has them; empty for any."""
    channels: tuple[str, ...] = ()
    """Of conda's: names of the operator's channels, in the order in which they count."""
    present: tuple[Present, ...] = ()
    """What it is for has these already: they are not part of it, and no other versions of them are."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python of an image, as it tells itself. Untrusted, but for the tenants of that image."""

    markers: Mapping[str, str] = field(default_factory=dict)
    """What PEP 508's markers are evaluated with."""
    libc: tuple[str, int, int] = ("", 0, 0)
    """`glibc` with its version."""

    @property
    def version(self) -> str:
        """Like 3.11."""
        return self.markers["python_version"]

    @property
    def platform(self) -> str:
        """By the name that uv has for it, e.g. `x86_64-manylinux_2_36`. Raises EnvironmentFailed."""
        name, major, minor = self.libc
        machine = self.markers["platform_machine"]
        if name != "glibc" or machine not in ("x86_64", "aarch64"):
            raise EnvironmentFailed(
                f"no environments are made for images with {name or 'an unknown libc'} on {machine}"
            )
        return f"{machine}-manylinux_{major}_{min(minor, _NEWEST_GLIBC)}"

    @property
    def subdir(self) -> str:
        """Its platform by the name that conda has for it, e.g. `linux-64`. Raises EnvironmentFailed."""
        return {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[self.platform.partition("-")[0]]


_NEWEST_GLIBC = 40
"""Whatever is newer runs wheels for it too."""


def for_interpreter(definition: Definition, interpreter: Interpreter) -> Definition:
    """What is left of it for this interpreter, once its markers are evaluated.

    Raises EnvironmentFailed where the interpreter is none that it may have.
    """
    if definition.tool == "conda":
        return definition  # which brings its own
    full = interpreter.markers["python_full_version"]
    if definition.requires_python and not SpecifierSet(definition.requires_python).contains(full, prereleases=True):
        raise EnvironmentFailed(
            f"requires-python is {definition.requires_python}, and the image has Python {full}", requirement="python"
        )
    kept = set()
    for text in definition.requirements:
        bare, _, marker = text.partition(" ; ")
        if not marker or _holds(text, marker, interpreter):
            kept.add(bare)
    return Definition(definition.tool, tuple(sorted(kept)), present=definition.present)


def _holds(requirement: str, marker: str, interpreter: Interpreter) -> bool:
    try:
        return Marker(marker).evaluate({**interpreter.markers, "extra": ""})
    except (UndefinedComparison, UndefinedEnvironmentName, ValueError) as bad:
        raise EnvironmentFailed(
            f"the marker of {requirement!r} cannot be evaluated: {bad}", requirement=requirement
        ) from None


def name_of(definition: Definition, interpreter: Interpreter) -> str:
    """A name for the environment: the same for whatever comes to the same, on the same platform and interpreter."""
    markers = interpreter.markers
    about = asdict(for_interpreter(definition, interpreter))
    if not definition.present:
        del about["present"]
    parts = {
        "recipe": _RECIPE,
        **about,
        "platform": (markers["platform_machine"], *interpreter.libc),
    }
    if definition.tool == "uv":
        parts |= {"implementation": markers["implementation_name"], "python": markers["python_full_version"]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
