"""A PostgreSQL server of the tests' own, that can be stopped, killed, paused and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

import psycopg

STARTS_WITHIN_S = 60.0
_USER = "postgres"


def programs() -> Path:
    """Where the newest release's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    assert found, "there is no PostgreSQL: `make postgres` installs it"
    return found[-1].parent


class PostgresServer:
    """One server on a folder of its own, on the loopback interface or on another address of this machine.

    It is not run by root, which the server refuses. What it has confirmed is on disk.
    """

    def __init__(
        self, *, host: str = "127.0.0.1", options: Sequence[str] = (), standby_of: PostgresServer | None = None
    ) -> None:
        """`options`: settings, each `name=value`. `standby_of`: follows another one, and takes no writes."""
        self._programs, self._options = programs(), options
        self._folder = Path(tempfile.mkdtemp(prefix="cypg"))
        self._data = self._folder / "data"
        self.host, self.port = host, _free_port(host)
        self._as_user = (
            ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.geteuid() == 0 else []
        )
        if self._as_user:
            user = pwd.getpwnam(_USER)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        if standby_of is None:
            words = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
            self._run("initdb", *words)
            with (self._data / "pg_hba.conf").open("a") as access:
                access.write("host all all 0.0.0.0/0 trust\n")
        else:
            primary = (f"--host={standby_of.host}", f"--port={standby_of.port}", "--username=postgres")
            self._run("pg_basebackup", *primary, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self.start()

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def url(self, database: str = "postgres") -> str:
        """Of one of its databases, as `store.url` has it."""
        return f"postgresql://postgres@{self.host}:{self.port}/{database}"

    def create(self) -> str:
        """Makes an empty database, and gives its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Removes a database, whoever is connected to it."""
        self.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def execute(self, statement: str, url: str = "") -> list[tuple[object, ...]]:
        """Runs a statement as the server's owner; gives what it returns."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description else []

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        settings = [
            f"listen_addresses={self.host}",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=32MB",
            *self._options,
        ]
        options = " ".join(f"-c {setting}" for setting in settings)
        within, log = f"--timeout={STARTS_WITHIN_S:.0f}", f"--log={self._folder / 'log'}"
        self._run("pg_ctl", "start", "--wait", within, log, f"--options={options}")

    def stop(self) -> None:
        """Ends it as an administrator does who does not wait for its clients."""
        self._run("pg_ctl", "stop", "--mode=fast", "--wait")

    def kill(self) -> None:
        """Ends it as a crash does: without any goodbye. It recovers when it is started again."""
        self._run("pg_ctl", "stop", "--mode=immediate", "--wait")

    def pause(self) -> None:
        """All of it stands still: connections stay open and nothing answers."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def processes(self) -> list[int]:
        """All of its processes, its first one first."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def processor_s(self) -> float:
        """What it has used, by all its processes, those that have ended too."""
        first, *others = self.processes()
        return used_s(first, children=True) + sum(used_s(pid) for pid in others)

    def close(self) -> None:
        """Ends it and removes what it kept."""
        if (self._data / "postmaster.pid").exists():
            self.resume()
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), f"--pgdata={self._data}", *arguments]
        # Its output goes to a file: the server inherits it and would keep a pipe open.
        with (self._folder / "command.log").open("w+") as log:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/", timeout=120
            )
            log.seek(0)
            assert done.returncode == 0, log.read()


def used_s(pid: int, *, children: bool = False) -> float:
    """Processor time of a process, with that of its ended children if wanted; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as taken:
        return int(taken.getsockname()[1])
