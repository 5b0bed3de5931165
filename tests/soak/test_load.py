"""Many tenants want more than the machine has, some of them hostile, some of them killed: fair, typed, tidy."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
QUOTA = 4


@dataclass(frozen=True)
class Load:
    """How much, for how long."""

    tenants: int
    sessions: int
    """Of each tenant."""
    room: int
    """Sandboxes on the machine."""
    seconds: float
    grain: int
    """By how many grants a tenant may be behind by chance."""
    growth_mib: int
    """What the controller's memory may grow by after its first third."""


@dataclass
class Ledger:
    """What the controller says of its sandboxes."""

    held: dict[str, str] = field(default_factory=dict)
    """Which tenant has each sandbox that is claimed."""
    grants: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    """The most that a tenant has had at a time."""

    def take(self, sandbox: cellyard.SandboxInfo) -> None:
        if sandbox.state == "claimed" and sandbox.sandbox_id not in self.held:
            self.held[sandbox.sandbox_id] = sandbox.tenant
            self.grants[sandbox.tenant] += 1
            now = sum(tenant == sandbox.tenant for tenant in self.held.values())
            self.most[sandbox.tenant] = max(self.most[sandbox.tenant], now)
        elif sandbox.state == "ended":
            self.held.pop(sandbox.sandbox_id, None)


class Client:
    """A tenant's program."""

    def __init__(self, endpoint: str, token: str, sessions: int, seed: int) -> None:
        self.said: list[dict[str, object]] = []
        self.deaths = 0
        self._command = [sys.executable, "-m", "tests.soak.client", endpoint, token, str(sessions), str(seed)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reading = threading.Thread(target=self._read, args=(self._process,))
        self._reading.start()

    def kill(self) -> None:
        """From one moment to the next, as a crash."""
        self._process.kill()
        self._reading.join()
        with self._process:  # closes its pipes
            pass

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("}\n"):  # else it was killed in the midst of it
                self.said.append(json.loads(line))


def resident(process: Process) -> int:
    """Bytes of the controller."""
    assert process.process is not None
    return int(Path(f"/proc/{process.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(tenants=5, sessions=3, room=4, seconds=60, grain=3, growth_mib=48), id="a minute"),
        pytest.param(Load(tenants=20, sessions=10, room=16, seconds=600, grain=0, growth_mib=48), id="ten minutes"),
    ],
)
def test_tenants_share_the_machine(built_image: str, folder: Path, load: Load) -> None:
    seed = int(os.environ.get("LOAD_SEED") or time.time())
    print(f"LOAD_SEED={seed}")
    chance = random.Random(seed)
    process = Process(folder)
    process.start(
        env={
            "CELLYARD_POOL__SIZE": "2",
            "CELLYARD_CAPACITY__SANDBOXES": str(load.room),
            "CELLYARD_SANDBOXES__IDLE_TIMEOUT": "5",
            "CELLYARD_QUOTAS__SANDBOXES": str(QUOTA),
        }
    )
    operator = cellyard.Client(process.endpoint)
    ledger, clients = Ledger(), []

    def follow() -> None:
        try:
            for sandbox in operator.watch_sandboxes():
                ledger.take(sandbox)
        except cellyard.NotConnected:
            pass  # closed at the end

    following = threading.Thread(target=follow)
    try:
        following.start()
        for number in range(load.tenants):
            token = operator.create_tenant(f"tenant-{number}")
            clients.append(Client(process.endpoint, token.token, load.sessions, seed + number))
        ends = time.monotonic() + load.seconds
        early = 0
        while (left := ends - time.monotonic()) > 0:
            # Here time is what is tested: a tenth of the clients dies in the course of it, and comes back.
            time.sleep(min(left, load.seconds / max(2, load.tenants / 10 + 1)))
            early = early or resident(process)
            victim = chance.choice(clients)
            victim.kill()
            victim.deaths += 1
            victim.start()
        late = resident(process)
    finally:
        for client in clients:
            client.kill()
        operator.close()
        following.join()
        code = process.stop()
        left_behind = process.containers()
        process.close()
    said = [each for client in clients for each in client.said]
    errors = [each for each in said if "error" in each]
    print(Counter(str(each.get("ended") or each.get("error")) for each in said), ledger.grants, ledger.most)
    print(f"controller: {early // MIB} MiB early, {late // MIB} MiB late")
    assert code == 0
    assert left_behind == []
    assert [each for each in errors if not each["typed"]] == []
    assert max(ledger.most.values()) <= QUOTA
    assert len(ledger.grants) == load.tenants
    fair = sum(ledger.grants.values()) / load.tenants
    for number, client in enumerate(clients):
        # Whoever was killed asked for nothing until it was back.
        least = 0.5 if client.deaths else 0.8
        assert ledger.grants[f"tenant-{number}"] >= least * fair - load.grain, ledger.grants
    assert late - early <= load.growth_mib * MIB
