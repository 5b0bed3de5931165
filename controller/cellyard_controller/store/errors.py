"""What goes wrong with the store."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

from cellyard_controller.errors import Moved, Unavailable


class StoreFailed(Exception):
    """The store did not take a transaction, or could not be read (disk full, disk gone). Nothing was stored."""


class StoreDamaged(StoreFailed):
    """What is asked for lies in a part of the database that is damaged. The rest can be read."""


class StoreAway(StoreFailed):
    """The database's server cannot be reached now. It may be back in a moment."""


class Fenced(StoreFailed):
    """This controller's lease is over: another one may have taken its place, and it writes nothing any more."""


def cause(failed: BaseException) -> str:
    """What the database's driver says, without SQLAlchemy's words around it."""
    said = failed.orig if isinstance(failed, DBAPIError) and failed.orig else failed
    return " ".join(str(said).split())


def is_damage(failed: BaseException) -> bool:
    """Whether the database says that a part of it is damaged, rather than that it cannot be got at."""
    error = failed.orig if isinstance(failed, DBAPIError) else failed
    if getattr(error, "sqlstate", None) in ("XX001", "XX002"):  # PostgreSQL: data_corrupted, index_corrupted
        return True
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def read_failure(failed: DBAPIError) -> str:
    """Why something could not be read, for people."""
    return f"the store cannot be read: {cause(failed)}"


def refusal(failed: StoreFailed) -> Unavailable:
    """What those are told who wanted it. Where the database is away, or it is for another controller to write now, they
    may ask again."""
    return Moved(str(failed)) if isinstance(failed, Fenced | StoreAway) else Unavailable(str(failed))
