"""What `install`, `uninstall` and `installed` give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cellyard_proto.v1 import kernels_pb2


@dataclass(frozen=True, slots=True)
class Package:
    """A package in a kernel's sandbox."""

    name: str
    """As PEP 503 normalises it."""
    version: str


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What came of an installation."""

    installed: tuple[Package, ...]
    """All that came, what was needed besides too, by name."""
    already_present: tuple[str, ...]
    """What was asked for and there before."""


@dataclass(frozen=True, slots=True)
class UninstallResult:
    """What became of each package that was to go."""

    removed: tuple[Package, ...]
    not_found: tuple[str, ...]
    """What `install` has not brought; what the image or the environment has is among it."""


def packages(listed: Iterable[kernels_pb2.InstalledPackage]) -> tuple[Package, ...]:
    """As the controller tells of them."""
    return tuple(Package(each.name, each.version) for each in listed)
