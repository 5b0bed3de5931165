"""A real Swarm of machines of the tests' own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from tests.cluster.machines import Machine, Machines

_WITHIN_S = 120.0
_PAUSE_S = 0.2
_HEARTBEAT = "1s"
"""A node that misses three is down: fast enough for a test, slow enough for a busy machine."""


class Swarm:
    """Machines of a Swarm, all of them managers. The first one's engine is asked."""

    def __init__(self, machines: Machines, *nodes: Machine) -> None:
        self.machines, self.nodes = machines, nodes
        first, *others = nodes
        first.docker("swarm", "init", "--advertise-addr", first.address, "--dispatcher-heartbeat", _HEARTBEAT)
        token = first.docker("swarm", "join-token", "--quiet", "manager").strip()
        for node in others:
            node.docker("swarm", "join", "--token", token, "--advertise-addr", node.address, f"{first.address}:2377")

    def states(self) -> dict[str, str]:
        """`Ready` or `Down`, by node."""
        rows = self._rows("node", "ls")
        return {row["Hostname"]: row["Status"] for row in rows}

    def running(self, service: str) -> dict[str, str]:
        """The ids of a service's tasks that run, by node."""
        rows = self._rows("service", "ps", service, "--filter", "desired-state=running")
        return {row["Node"]: row["ID"] for row in rows if row["CurrentState"].startswith("Running")}

    def until(self, what: Callable[[], bool], within_s: float = _WITHIN_S) -> None:
        """Waits until that is so. The command line's client has no events of a Swarm's nodes."""
        give_up = time.monotonic() + within_s
        while not what():
            assert time.monotonic() < give_up, f"{self.states()}\n{self.nodes[0].docker('service', 'ls')}"
            time.sleep(_PAUSE_S)

    def _rows(self, *arguments: str) -> list[dict[str, str]]:
        said = self.nodes[0].docker(*arguments, "--format", "{{json .}}")
        return [json.loads(line) for line in said.splitlines()]
