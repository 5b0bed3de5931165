"""What makes sandboxes: the interface that `docker`, `process` and, in tests, `fake` have in common.

A runtime starts and ends places where an agent runs, and tells what it can prove of them. It knows nothing of
notebooks, tenants or kernels: those talk to the agent over the link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

MIB = 1024 * 1024
ENVIRONMENT = "/opt/environment"
"""Where a sandbox sees its prepared environment, a folder of modules."""
PYTHONS = ("3.11", "3.13")
"""The interpreters that this release has images with, the usual one first."""
USUAL_PYTHON = PYTHONS[0]


@dataclass(frozen=True, slots=True)
class Template:
    """What sandboxes are made from. An operator defines templates; tenants only name them."""

    name: str
    image: str
    """Image reference, or "" for the image of this release (process runtime: unused)."""
    kernel_type: str = "python"
    """The kernel that runs there: which of this release's images it is."""
    python: str = ""
    """Likewise the Python of a Python kernel: "" for the usual one, and for images of the operator's."""
    oci_runtime: str = ""
    """OCI runtime of the engine, "" for the engine's default."""
    network: str = "none"
    """`none`, `allowlist` (for a runtime the same: the way out is a socket in the link's folder) or `open`."""
    memory_bytes: int = 1024 * MIB
    cpus: float = 1.0
    pids: int = 256
    home_bytes: int = 512 * MIB
    tmp_bytes: int = 256 * MIB
    shm_bytes: int = 64 * MIB


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox to be started."""

    sandbox_id: str
    controller_id: str
    template: Template
    link_dir: Path
    """Host folder with the link's socket `agent.sock`; the sandbox sees it read-only."""
    uid: int
    """User and group id inside and outside; of this sandbox alone."""
    environment: Path | None = None
    """Host folder of its prepared environment, which it sees read-only; None for that of its image."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What the runtime knows of one sandbox that it started."""

    instance_id: str
    """Container id, or process id."""
    sandbox_id: str
    controller_id: str
    running: bool
    exit_code: int | None = None
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class CapabilityFact:
    """One capability, as probed."""

    name: str
    granted: bool
    evidence: str
    probed_at: float
    """Seconds since the epoch."""
    late: bool = False
    """Not granted only because the probe has not answered in time; it is made again."""


@dataclass(frozen=True, slots=True)
class ToldFacts:
    """What an agent says first of what confines it. Untrusted, but for who said it."""

    uid: int = -1
    cap_eff: str = ""
    no_new_privs: int = -1
    seccomp: int = -1
    root_read_only: bool = False
    interfaces: tuple[str, ...] = ()
    """By name, sorted."""
    routes: int = -1
    """That lead anywhere but to the loopback interface."""
    peer_pid: int = 0
    """The process that said so, as this machine's kernel names it; 0 where it has no number here."""


NOTHING_TOLD = ToldFacts()
"""Of an agent that has not spoken yet."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a runtime can start a sandbox from a template now."""

    ready: bool
    reason: str = ""
    """Why not, with the remedy, in a sentence."""
    details: dict[str, str] = field(default_factory=dict)


class RuntimeFailed(Exception):
    """The runtime could not do what it was asked. The message says why and what to do about it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Typed: `start_failed`, `image_missing` or `runtime_lost`."""


class Runtime(Protocol):
    """Starts and ends sandboxes. Every call ends within its own bound, also where the engine hangs."""

    name: str
    own_python: bool
    """Sandboxes run a Python of their own, their image's, and not the controller's."""

    async def readiness(self, template: Template) -> Readiness:
        """Whether a sandbox could be started now."""

    async def capabilities(self, template: Template) -> list[CapabilityFact]:
        """What has been proven for sandboxes of this template; probes where that was not done yet."""

    async def makings(self, template: Template) -> str:
        """What a sandbox of this template would be made of now; other words mean something else.

        Raises RuntimeFailed.
        """

    async def start(self, spec: SandboxSpec) -> str:
        """Starts a sandbox and returns its instance id. Raises RuntimeFailed; nothing is left behind then."""

    async def start_aside(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Like `start`, with this program in the agent's place, and no sandbox to anybody: `instances` does not list
        it while this process lives, and whoever started it stops it. Raises RuntimeFailed.
        """

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: ToldFacts) -> list[str]:
        """In what this very sandbox is not as it must be, as words; asked before it is anybody's.

        Compares what its agent told with what this machine shows of it. Raises RuntimeFailed.
        """

    async def stop(self, instance_id: str) -> None:
        """Ends and removes an instance. One that is gone already is no error. Raises RuntimeFailed."""

    async def inspect(self, instance_id: str) -> Instance | None:
        """One instance as it stands, None where it is gone. Raises RuntimeFailed."""

    async def instances(self, controller_id: str) -> list[Instance]:
        """All instances that this controller's data folder ever started, ended and half-made ones too."""

    async def log_tail(self, instance_id: str) -> str:
        """The last that an instance wrote to stdout and stderr, at most 4 KiB; "" where there is nothing.

        Why an agent did not come up often stands there. Untrusted text. Raises RuntimeFailed.
        """

    async def watch(self, on_exit: Callable[[str], None]) -> None:
        """Calls on_exit(instance_id) once for each instance that ends, or has ended before and was not told yet.

        Ids may be unknown to the caller. Runs until cancelled, survives the engine.
        """

    async def close(self) -> None:
        """Lets go of connections and threads. Instances go on where they can live without this process."""
