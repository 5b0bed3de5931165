"""Many tenants want more than the machine has, some of them hostile, some of them killed: fair, typed, tidy."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import cellyard
from cellyard_controller.tenants import audit
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
    growth_mib: int
    """What the controller's memory may grow by after its first third."""


@dataclass
class Shares:
    """What the audit log says of who wanted sandboxes, and who was given them."""

    room: int
    """Sandboxes on the machine."""
    grants: Counter[str] = field(default_factory=Counter)
    fair: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of each grant, the same part for each tenant that waited then and held less than its part of the machine."""
    most: Counter[str] = field(default_factory=Counter)
    """The most that a tenant has had at a time."""
    _waiting: dict[str, str] = field(default_factory=dict)
    _held: dict[str, str] = field(default_factory=dict)
    """Notebooks, and whose they are."""

    @classmethod
    def of(cls, data: Path, room: int) -> Shares:
        shares = cls(room)
        for file in audit.files(data):
            for line in file.read_bytes().splitlines():
                entry = audit.entry_of(line)
                if entry is not None and "notebook_id" in entry:
                    shares.take(entry["action"], entry["notebook_id"], entry["tenant"])
        return shares

    def take(self, action: str, notebook: str, tenant: str) -> None:
        if action == "Executions.Execute" and notebook not in self._held:
            self._waiting[notebook] = tenant
        elif action == "sandbox.ended":
            self._held.pop(notebook, None)
        elif action == "sandbox.claimed":
            self._waiting.setdefault(notebook, tenant)
            has = Counter(self._held.values())
            active = {*self._waiting.values(), *has}
            wanting = {each for each in self._waiting.values() if has[each] < self.room / len(active)}
            for each in wanting:
                self.fair[each] += 1 / len(wanting)
            del self._waiting[notebook]
            self._held[notebook] = tenant
            self.grants[tenant] += 1
            self.most[tenant] = max(self.most[tenant], has[tenant] + 1)


class Client:
    """A tenant's program."""

    def __init__(self, endpoint: str, token: str, sessions: int, seed: int) -> None:
        self.said: list[dict[str, object]] = []
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


MINUTE = Load(tenants=5, sessions=3, room=4, seconds=60, growth_mib=48)
TEN_MINUTES = Load(tenants=20, sessions=10, room=16, seconds=600, growth_mib=48)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "load", [pytest.param(MINUTE, id="a minute"), pytest.param(TEN_MINUTES, id="ten minutes", marks=pytest.mark.soak)]
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
    clients: list[Client] = []
    try:
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
            victim.start()
        late = resident(process)
    finally:
        for client in clients:
            client.kill()
        operator.close()
        code = process.stop()
        shares = Shares.of(process.data, load.room)
        left_behind = process.containers()
        process.close()
    said = [each for client in clients for each in client.said]
    errors = [each for each in said if "error" in each]
    print(Counter(str(each.get("ended") or each.get("error")) for each in said), shares.grants, dict(shares.fair))
    print(f"controller: {early // MIB} MiB early, {late // MIB} MiB late")
    assert code == 0
    assert left_behind == []
    assert [each for each in errors if not each["typed"]] == []
    assert len(shares.grants) == load.tenants
    assert max(shares.most.values()) <= QUOTA
    for tenant, fair in shares.fair.items():
        assert shares.grants[tenant] >= 0.8 * fair - 2, (tenant, shares.grants, shares.fair)
    assert late - early <= load.growth_mib * MIB
