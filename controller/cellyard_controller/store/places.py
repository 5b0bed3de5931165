"""Where a store is: a file of SQLite's, or a PostgreSQL database that several controllers may share.

`engine` connects to the latter, for the store itself and for whatever else works on the same database: with the
password from its file, with limits on both sides of the connection, and with texts escaped as the store has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Engine, NullPool, QueuePool, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from cellyard_controller.store.errors import StoreFailed

if TYPE_CHECKING:
    import psycopg

_MORE = 8
"""Connections of a pool beside those that are kept open, for those who come all at once."""
DATABASE = "cellyard.sqlite"
"""The file in a data folder."""


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A database that one controller has for itself."""

    path: Path
    blobs: Path
    """The folder of its files."""

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Postgres:
    """A database of a PostgreSQL server."""

    url: str
    """postgresql://USER@HOST:PORT/DATABASE; options of the driver may follow (`?sslmode=verify-full`)."""
    spool: Path
    """A folder on this machine, for files that are read or written piece by piece."""
    blobs: Path | None = None
    """The folder of its files, which all its controllers share; None keeps them in the database."""
    password_file: Path | None = None
    """Its first line is the password. Read at each connecting, so that it may be changed."""
    timeout_s: float = 5.0
    """What one statement may take, and a transaction between two of them: less than a node's lease."""

    def __str__(self) -> str:
        return _parsed(self.url).render_as_string(hide_password=True)


Place = SqliteFile | Postgres


class Wanted(Protocol):
    """The section `store` of a configuration."""

    @property
    def url(self) -> str:
        """Of PostgreSQL; empty for SQLite's file."""

    @property
    def password_file(self) -> Path | None:
        """For PostgreSQL."""

    @property
    def blobs(self) -> str:
        """Where large parts are: `folder`, or `database`."""

    @property
    def blobs_folder(self) -> Path | None:
        """The folder, where it is not the data folder's own."""


def of(config: Wanted, data: Path) -> Place:
    """The place that a configuration names, for the controller of a data folder."""
    folder = config.blobs_folder or data / "blobs"
    if not config.url:
        return SqliteFile(data / DATABASE, folder)
    kept = None if config.blobs == "database" else folder
    return Postgres(config.url, data / "spool", kept, config.password_file)


def engine(
    place: Postgres, *, purpose: str, pool_size: int = 0, timeout_s: float | None = None, read_only: bool = False
) -> Engine:
    """Connects to the database, when something is done with it. Raises StoreFailed where the place is no good.

    Its connections begin no transaction by themselves unless `read_only`, where each looks at one moment of the
    database. The rest says BEGIN, or uses SQLAlchemy's isolation levels.

    `purpose`: what the server's administrator sees of it. `pool_size`: connections that are kept open, at most; 0
    opens a new one each time. `timeout_s`: instead of the place's; 0 is none.
    """
    limit = place.timeout_s if timeout_s is None else timeout_s
    given = _arguments(place.url)

    def connect() -> psycopg.Connection:
        return _connect(given, place.password_file, limit, purpose, read_only=read_only)

    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size:
        pool = {"poolclass": QueuePool, "pool_size": pool_size, "max_overflow": _MORE}
    try:
        return create_engine(
            "postgresql+psycopg://",
            creator=connect,
            isolation_level=None if read_only else "AUTOCOMMIT",
            pool_reset_on_return="rollback",
            **pool,
        )
    except ImportError as missing:
        raise driver_missing(missing) from missing


def driver_missing(missing: ImportError) -> StoreFailed:
    """What is told where the extra is not installed."""
    return StoreFailed(
        f'a store on PostgreSQL needs its driver, and {missing.name} is not there: pip install "cellyard[postgres]"'
    )


def _connect(
    given: Mapping[str, Any], password_file: Path | None, limit: float, purpose: str, *, read_only: bool
) -> psycopg.Connection:
    import psycopg

    from cellyard_controller.store import escaping

    milliseconds = max(1, round(limit * 1000)) if limit else 0
    settings = {
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "tcp_user_timeout": milliseconds,
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 2,
        "tcp_keepalives_count": 3,
        "synchronous_commit": "on",
        "client_min_messages": "warning",
        # Texts are compared and shown in one way, whoever has set the server up.
        "client_encoding": "UTF8",
    }
    if read_only:
        settings |= {"default_transaction_read_only": "on", "default_transaction_isolation": "repeatable\\ read"}
    arguments: dict[str, Any] = {
        "connect_timeout": min(max(2, round(limit or 10)), 10),
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
        "application_name": f"cellyard {purpose}",
        **given,
    }
    arguments["options"] = " ".join(
        [*(f"-c {name}={value}" for name, value in settings.items()), given.get("options", "")]
    )
    if password_file is not None:
        try:
            arguments["password"] = password_file.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as failed:
            raise StoreFailed(f"store.password_file {password_file} cannot be read: {failed}") from failed
    connection = psycopg.connect(**arguments, autocommit=not read_only)
    escaping.install(connection)
    return connection


def _arguments(url: str) -> dict[str, Any]:
    parsed = _parsed(url)
    return {**parsed.translate_connect_args(username="user", database="dbname"), **parsed.query}


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.drivername not in ("postgresql", "postgres"):
        raise StoreFailed(f"{url[:20]!r}... is no place for a store: postgresql://USER@HOST:PORT/DATABASE")
    return parsed
