"""What one PostgreSQL server of this machine carries: runs, renewals of leases, readings of all reports, and bytes.

`python -m tests.bench.postgres_rates` starts a server of its own, with the product's tables, whose commits are on disk.
Each writer is a process with one connection, as a controller's writer is; it commits for `group` notebooks at once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import random
import string
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import psycopg
from sqlalchemy import Insert, Table, create_engine, insert

from cellyard_controller.store import schema
from tests.bench.report import RESULTS
from tests.postgres_server import PostgresServer

WRITERS = (1, 2, 4, 8)
GROUPS = (1, 8, 32)
SOURCE = "df = load('a.csv')\ndf.groupby('x').sum()\n" * 3
OUTPUTS = json.dumps([{"output_type": "stream", "name": "stdout", "text": "x" * 200}])
EVENTS = json.dumps(
    [[1, "accepted", {}], [2, "started", {"n": 1}], [3, "output", {"text": "x" * 200}], [4, "finished", {}]]
)
LEASE = """
CREATE TABLE lease_rows (
    name text PRIMARY KEY, controller_id text, fence bigint, endpoint text, state text,
    expires_at double precision, report text
)"""
GUARD = (
    "SELECT 1 FROM lease_rows WHERE name = %s AND fence = 1 "
    "AND expires_at > extract(epoch FROM clock_timestamp()) FOR KEY SHARE"
)
RENEW = (
    "UPDATE lease_rows SET expires_at = extract(epoch FROM clock_timestamp()) + 9, report = %s "
    "WHERE name = %s AND fence = 1"
)
END = (
    "UPDATE executions SET state = 'ended', \"end\" = 'succeeded', ended_at = 1.0, last_seq = 4, outputs = %s, "
    "stored_bytes = 400, cpu_s = 0.01, wall_s = 0.02 WHERE execution_id = %s"
)

REPORTS = (1_000, 4_000, 16_000)
"""Bytes of a report."""
NODES = (10, 100, 1_000, 10_000)
LEASES = """
INSERT INTO lease_rows SELECT 'node' || n, 'c', 1, 'h:1', 'serving', extract(epoch FROM clock_timestamp()) + 36000, ''
FROM generate_series(0, 9999) n"""
REPORTS_OF_4_KB = """
UPDATE lease_rows SET report = (SELECT string_agg(md5(n::text || lease_rows.name), '') FROM generate_series(1, 125) n)
"""
STORED = """
SELECT sum(pg_total_relation_size(oid)), (SELECT count(*) FROM executions) FROM pg_class
WHERE relname IN ('executions', 'event_batches', 'requests')"""


@dataclass(frozen=True)
class Rate:
    """One measurement."""

    what: str
    writers: int
    group: int
    a_second: float
    """Of what is measured."""
    server_us: float
    """Processor time of the server for each: what others on the machine take is not in it."""
    commits_a_second: float


Step = Callable[[], int]
"""Does it once, and says how many it was."""


def runs(connection: psycopg.Connection, writer: int, group: int) -> Step:
    """Runs of cells: accepted with a dispatch in one commit, outputs with the end in another, for several at once."""
    tables = schema.metadata.tables
    accept = _sql(insert(tables["executions"]), tables["executions"], _execution(1, ""))
    events = _sql(insert(tables["event_batches"]), tables["event_batches"], _batch("", 1))
    asked = _sql(insert(tables["requests"]), tables["requests"], _request(""))
    notebooks = [_notebook(connection, f"nb-{writer}-{number}") for number in range(group)]
    connection.commit()

    def step() -> int:
        cursor, ids = connection.cursor(), [f"exec-{uuid.uuid4()}" for _ in notebooks]
        cursor.execute(GUARD, [f"node{writer}"])
        cursor.executemany(accept, [_execution(key, each) for key, each in zip(notebooks, ids, strict=True)])
        cursor.executemany(asked, [_request(each) for each in ids])
        connection.commit()
        cursor.execute(GUARD, [f"node{writer}"])
        cursor.executemany(events, [_batch(each, 4) for each in ids])
        cursor.executemany(END, [(OUTPUTS, each) for each in ids])
        connection.commit()
        return len(ids)

    return step


def renewals(connection: psycopg.Connection, writer: int, size: int) -> Step:
    """Renewals of leases, each with a report of so many bytes, of nodes chosen at random."""
    chance = random.Random(writer)
    text = "".join(chance.choices(string.ascii_letters + string.digits, k=size))

    def step() -> int:
        start = chance.randrange(size)
        connection.execute(RENEW, (text[start:] + text[:start], f"node{chance.randrange(10_000)}"))
        connection.commit()
        return 1

    return step


def readings(connection: psycopg.Connection, _: int, count: int) -> Step:
    """Readings of the reports of so many nodes."""

    def step() -> int:
        with connection.cursor(binary=True) as cursor:
            cursor.execute("SELECT name, state, expires_at, report FROM lease_rows LIMIT %s", [count])
            cursor.fetchall()
        connection.commit()
        return 1

    return step


def _write(
    make: Callable[[psycopg.Connection, int, int], Step],
    url: str,
    writer: int,
    parameter: int,
    ready: Barrier,
    stop: Event,
    done: multiprocessing.Queue[tuple[int, int]],
) -> None:
    with psycopg.connect(url, prepare_threshold=1) as connection:
        step = make(connection, writer, parameter)
        step()
        ready.wait()
        count = steps = 0
        while not stop.is_set():
            count += step()
            steps += 1
        done.put((count, steps))


def measure(
    what: str,
    make: Callable[[psycopg.Connection, int, int], Step],
    server: PostgresServer,
    url: str,
    writers: int,
    parameter: int,
    for_s: float,
) -> Rate:
    """How often in a second, with so many processes at once."""
    used = _processor_s(server)
    context = multiprocessing.get_context("fork")
    ready, stop = context.Barrier(writers + 1), context.Event()
    done: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    processes = [
        context.Process(target=_write, args=(make, url, number, parameter, ready, stop, done))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    stop.wait(for_s)
    stop.set()
    counts = [done.get() for _ in processes]
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    count = sum(count for count, _ in counts)
    server_us = (_processor_s(server) - used) / max(1, count) * 1e6
    commits = sum(steps for _, steps in counts) * (2 if make is runs else 1)
    return Rate(what, writers, parameter, count / seconds, server_us, commits / seconds)


def _processor_s(server: PostgresServer) -> float:
    """What the server has used, once the processes that served clients have ended."""
    while any("127.0.0.1" in _command(pid) for pid in server.processes()):
        time.sleep(0.01)
    return server.processor_s()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has just ended
        return ""


def _sql(statement: Insert, table: Table, values: dict[str, object]) -> str:
    return str(
        statement.compile(
            dialect=create_engine("postgresql+psycopg://").dialect,
            column_keys=[each for each in values if each in table.c],
        )
    )


def _execution(notebook: int, execution_id: str) -> dict[str, object]:
    return {
        "execution_id": execution_id,
        "notebook_key": notebook,
        "cell_id": "cell-1",
        "session_id": "session-1",
        "source": SOURCE,
        "timeout_s": 60.0,
        "start_deadline": 1.8e9,
        "stop_on_error": True,
        "state": "dispatched",
        "end_wanted": "",
        "end": "",
        "end_reason": "",
        "end_message": "",
        "execution_count": 1,
        "accepted_at": 1.8e9,
        "started_at": 1.8e9,
        "ended_at": 0.0,
        "last_seq": 1,
        "outputs": "[]",
        "value_is_repr": False,
        "cpu_s": 0.0,
        "peak_memory_bytes": 0,
        "wall_s": 0.0,
        "offers": "",
        "output_bytes": 0,
        "stored_bytes": len(SOURCE),
    }


def _batch(execution_id: str, last_seq: int) -> dict[str, object]:
    return {"execution_id": execution_id, "last_seq": last_seq, "events": EVENTS, "in_short": False}


def _request(request_id: str) -> dict[str, object]:
    return {"tenant": "anne", "request_id": request_id, "digest": b"x" * 32, "answer": request_id, "at": 1.8e9}


def _notebook(connection: psycopg.Connection, name: str) -> int:
    row = connection.execute(
        "INSERT INTO notebooks (tenant, notebook_id, created_at, changed_at, kernel_end, labels) "
        "VALUES ('anne', %s, 1.0, 1.0, '', '{}') RETURNING key",
        [f"{name}-{uuid.uuid4()}"],
    ).fetchone()
    assert row is not None
    return int(row[0])


def main() -> None:
    """Measures, prints and writes it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    chosen = parser.parse_args()
    with closing(PostgresServer(options=["shared_buffers=256MB", "max_wal_size=4GB"])) as server:
        url = _filled(server)
        pairs = itertools.product(GROUPS, WRITERS)
        rates = [show(measure("runs", runs, server, url, writers, group, chosen.seconds)) for group, writers in pairs]
        [(stored, count)] = server.execute(STORED, url)
        assert isinstance(count, int)
        bytes_each = float(str(stored)) / count
        print(f"{bytes_each:.0f} bytes in tables and indexes for each of {count} runs")
        pairs = itertools.product(REPORTS, (1, 8))
        rates += [
            show(measure("renewals", renewals, server, url, writers, size, chosen.seconds)) for size, writers in pairs
        ]
        server.execute(REPORTS_OF_4_KB, url)
        rates += [show(measure("readings", readings, server, url, 2, nodes, chosen.seconds)) for nodes in NODES]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"postgres-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.json"
    path.write_text(json.dumps({"bytes_a_run": bytes_each, "rates": [asdict(each) for each in rates]}, indent=2) + "\n")
    print(f"written to {path}")


def _filled(server: PostgresServer) -> str:
    """A database with the product's tables and the leases of ten thousand nodes."""
    url = server.create()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    schema.metadata.create_all(engine)
    engine.dispose()
    server.execute(LEASE, url)
    server.execute(LEASES, url)
    return url


def show(each: Rate) -> Rate:
    """A line."""
    rate = f"{each.a_second:>10,.0f} a second{each.commits_a_second:>10,.0f} commits a second"
    rate += f"{each.server_us:>10,.0f} us of the server each"
    print(f"{each.what:<10}{each.writers:>3} writers {each.group:>7} {rate}", flush=True)
    return each


if __name__ == "__main__":
    main()
