"""What a session asks of whatever runs its code, and what that asks of the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from cellyard.codemode.results import ExecutionResult


class Host(Protocol):
    """Serves the namespaces of running code (cellyard_proto.codemode.names)."""

    async def call(
        self, function: str, operation: str, arguments: dict[str, Any], *, notebook_id: str, execution_id: str
    ) -> Any:
        """Data in, data out. Raises errors of cellyard.codemode.errors, which code gets by the same name.

        It is cancelled where the run that it belongs to ends first. Several calls may be under way at once.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """Runs code, one run at a time, in one state that lasts from run to run."""

    async def start(self, host: Host) -> None:
        """Makes it ready; without effect where it is. Raises SessionClosed after `close`."""
        ...

    async def run(self, code: str, timeout: float | None) -> ExecutionResult:
        """Runs code; several at once queue up. Never raises for what the code did or for a limit that it met.

        `timeout`: seconds from its start, None for no limit. Raises InvalidRequest for one that is not above zero,
        NotConnected before `start`. Whoever gives up waiting stops the code.
        """
        ...

    async def reset(self) -> None:
        """Forgets all variables. What runs is stopped, what waits never runs; both have a result that says so."""
        ...

    async def close(self) -> None:
        """Stops what runs and lets go of everything. Twice is fine."""
        ...

    async def install(self, requirements: Sequence[str]) -> tuple[list[str], list[str]]:
        """Brings packages: those that it brought, and those that were there. All or none.

        May be called while code runs, by that code too. Raises EnvironmentFailed; `details["log"]` says more.
        """
        ...

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        """Removes packages that `install` brought: those that are gone, and those that it did not find."""
        ...

    def capabilities(self) -> frozenset[str]:
        """What has been proven; nothing before `start` and after `close`."""
        ...
