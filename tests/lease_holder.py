"""A process that holds a node's lease and writes as that node, to be stopped and let go on by tests.

python -m tests.lease_holder URL LEASE_S, and then on its input a line for each round: NODE writing|open|blind

It says, a line each: `writes` once some of its writes are committed; or `open` within a transaction in which it has
written, and which it ends after another line of input; `fenced` when a write was refused; `lost: WHY` when it knows
that it has no lease. Then it tries to write a few times more, and says `wrote N` of those. The clock of one that is
`blind` stands still: only the database can tell it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from cellyard_controller.cluster.leases import Identity
from cellyard_controller.cluster.membership import Membership, uptime
from cellyard_controller.cluster.standing import Standing, Terms
from cellyard_controller.store import places
from cellyard_controller.store.errors import Fenced

WRITE = "INSERT INTO written (node, fence) VALUES (%(node)s, %(fence)s)"


def say(what: str) -> None:
    """To whoever started it."""
    print(what, flush=True)


def write(connection: Connection, membership: Membership) -> None:
    """One write, as a store's writer does it: the guard is the transaction's first statement."""
    membership.guard(connection)
    connection.exec_driver_sql(WRITE, {"node": membership.name, "fence": membership.fence})


def write_until_refused(engine: Engine, membership: Membership, stay_open: bool) -> None:
    """Ends with a write that was refused. What the server ended, because it stood still, is tried again."""
    count, said = 0, False
    while True:
        try:
            with engine.connect() as connection:
                while True:
                    with connection.begin():
                        write(connection, membership)
                        if stay_open and count == 5 and not said:
                            said = True
                            say("open")
                            sys.stdin.readline()
                    count += 1
                    if count == 5 and not stay_open:
                        say("writes")
        except Fenced:
            return
        except DBAPIError:
            pass


async def one_round(url: str, lease_s: float, node: str, how: str) -> None:
    """Until the lease is lost, and a little longer."""
    terms = Terms(lease_s)
    place = places.Postgres(url, Path("/nowhere"))
    lease = places.engine(place, purpose="lease", timeout_s=terms.attempt_s)
    writer = places.engine(place, purpose="writer", timeout_s=terms.attempt_s)
    writer = writer.execution_options(isolation_level="READ COMMITTED")
    clock = (lambda: 0.0) if how == "blind" else uptime
    membership = Membership.take(lease, Identity(node, node, "victim:1"), terms, clock=clock)
    heard: list[Standing] = []
    membership.listen(heard.append)
    keeping = asyncio.create_task(membership.keep())
    await asyncio.to_thread(write_until_refused, writer, membership, how == "open")
    say("fenced")
    await keeping
    assert heard[-1] is Standing.LOST
    say(f"lost: {membership.lost_because}")
    wrote = 0
    for _ in range(5):
        try:
            with writer.begin() as connection:
                write(connection, membership)
            wrote += 1
        except (Fenced, DBAPIError):  # a server that is slow to take a connection has stored nothing either
            pass
    say(f"wrote {wrote}")


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    for line in iter(sys.stdin.readline, ""):
        name, how = line.split()
        asyncio.run(one_round(sys.argv[1], float(sys.argv[2]), name, how))
