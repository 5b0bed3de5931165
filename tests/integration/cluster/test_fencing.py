"""A controller that is paused past its lease, also in the middle of a transaction: what it was writes nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from cellyard_controller.cluster import leases, owners
from cellyard_controller.cluster.leases import Identity, Taken

LEASE = 1.0
ROUNDS = 20
KINDS = ("writing", "open", "blind")
AT_ONCE = 5


class Victim:
    """A process that holds leases one after the other, of a node of its own each; see `tests.lease_holder`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.node, self.wanted, self._log = process, "", "", log

    def begin(self, how: str) -> None:
        """A round: one of KINDS."""
        self.node, self.wanted = f"victim-{uuid.uuid4().hex[:8]}", "open" if how == "open" else "writes"
        self.tell(f"{self.node} {how}")

    def tell(self, line: str) -> None:
        """It reads this."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line that it says; what it has logged, where it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip() or self._log.read_text()


@contextmanager
def victim(url: str, log: Path) -> Iterator[Victim]:
    """Starts one."""
    command = [sys.executable, "-m", "tests.lease_holder", url, str(LEASE)]
    with (
        log.open("a") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield Victim(process, log)
        finally:
            process.kill()


def written(engine: Engine, name: str) -> list[tuple[int, int]]:
    with engine.begin() as connection:
        rows = connection.exec_driver_sql(
            "SELECT number, fence FROM written WHERE node = %(node)s ORDER BY number", {"node": name}
        )
        return [(int(number), int(fence)) for number, fence in rows]


def take_over(engine: Engine, name: str, heir: str, fence: int) -> None:
    """As soon as its lease has run out, and whatever it was writing has ended."""
    while True:
        with engine.begin() as connection:
            lost = leases.one(connection, name)
        assert lost is not None
        if lost.left_s > 0:
            time.sleep(lost.left_s)  # the database's clock is this machine's
            continue
        try:
            with engine.begin() as connection:
                if owners.inherit(connection, lost, heir, fence) is not None:
                    return
        except DBAPIError:
            pass  # it waited for too long for what stands open


@pytest.fixture
def table(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE written (number BIGSERIAL PRIMARY KEY, node TEXT NOT NULL, fence BIGINT NOT NULL)"
        )


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("table")
def test_who_was_paused_past_its_lease_writes_nothing_more_and_knows_it(
    engine: Engine, shared: str, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        heir = leases.take(connection, Identity("heir", "heir", "heir:1"), 3600.0)
    assert isinstance(heir, Taken)
    rounds = 0
    with ExitStack() as stack:
        victims = [stack.enter_context(victim(shared, tmp_path / f"{number}.log")) for number in range(AT_ONCE)]
        while rounds < ROUNDS:
            for number, each in enumerate(victims):
                each.begin(KINDS[(rounds + number) % 3])
            paused = []
            for each in victims:
                if each.hear() == each.wanted:
                    os.kill(each.process.pid, signal.SIGSTOP)
                    paused.append(each)
                else:  # so slow a machine that it was not renewed in time: no round
                    assert each.hear().startswith("lost: ")
                    assert each.hear() == "wrote 0"
            before = {}
            for each in paused:
                take_over(engine, each.node, "heir", heir.fence)
                before[each] = written(engine, each.node)
                assert before[each]
            for each in paused:
                if each.wanted == "open":
                    each.tell("")  # it commits, or tries to
                os.kill(each.process.pid, signal.SIGCONT)
            for each in paused:
                assert each.hear() == "fenced"
                assert each.hear().startswith("lost: ")
                assert each.hear() == "wrote 0"
                assert written(engine, each.node) == before[each]
            rounds += len(paused)
