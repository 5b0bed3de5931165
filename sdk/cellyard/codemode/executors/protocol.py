"""What a session needs of the place where its code runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from cellyard import _requests
from cellyard.codemode.results import ExecutionResult
from cellyard.endpoint import TLS


class Host(Protocol):
    """Serves the calls of running code: code mode's namespaces (cellyard_proto.codemode)."""

    async def call(
        self, function: str, operation: str, arguments: dict[str, Any], *, notebook_id: str, execution_id: str
    ) -> Any:
        """Data in, data out. Raises what the code is to catch."""
        ...

    async def save_file(self, local: Path, name: str, type_: str, description: str, metadata: Any) -> dict[str, Any]:
        """Keeps an artifact whose content is this file here."""
        ...

    async def load_file(self, name: str, local: Path) -> tuple[str, int]:
        """Writes an artifact's content to this file here, and returns its type, and its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Needs:
    """What a session asks of whatever runs its code."""

    endpoint: str | None = None
    token: str | None = None
    tls: bool | TLS = False
    require: frozenset[str] = frozenset()
    network: str | None = None
    template: str | None = None


NOTHING = Needs()


@runtime_checkable
class Executor(Protocol):
    """Runs code. Used by one session, from one event loop; one run at a time."""

    async def start(self, host: Host, needs: Needs = NOTHING) -> None:
        """Raises CapabilityUnavailable where what is required cannot be had."""
        ...

    async def run(self, code: str, timeout: float | None) -> ExecutionResult:
        """Runs code for at most so many seconds. What the code or its limits do, is in the result."""
        ...

    async def reset(self) -> None:
        """Forgets all that code has defined."""
        ...

    async def close(self) -> None:
        """Ends it; again without effect."""
        ...

    async def install(self, requirements: Sequence[str]) -> tuple[list[str], list[str]]:
        """Packages for the code, at once: those of `requirements` that came, and those that were there.

        Raises EnvironmentFailed, InvalidRequest, CapabilityUnavailable.
        """
        ...

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those of `packages` that were removed, and those that `install` had not brought."""
        ...

    def capabilities(self) -> frozenset[str]:
        """What has been proven of where the code runs now; nothing before the start and after the end."""
        ...

    @property
    def config(self) -> ExecutorConfig:
        """The settings."""
        ...


@dataclass(frozen=True)
class ExecutorConfig:
    """What all executors can be told."""

    timeout: float | None = 30.0
    """Seconds for a run where it says nothing itself; None for no limit."""
    tools_path: str | Path | None = None
    """A folder of tools' definitions, besides those of the storage."""
    deps: tuple[str, ...] | None = None
    """Packages that the code needs."""
    deps_file: str | Path | None = None
    """A requirements.txt with more of them."""
    allow_runtime_deps: bool = True
    """Whether packages may be added and removed while the session runs."""

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        _requests.seconds("timeout", self.timeout)
