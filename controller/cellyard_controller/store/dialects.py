"""What SQLite and PostgreSQL say in different words, said once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

Insert = sqlite.Insert | postgresql.Insert
"""An insert that may say what becomes of a conflict."""
Inserting = Callable[[Table], Insert]
"""Begins one, in a database's own words."""


def inserting(dialect: str) -> Inserting:
    """How an insert begins in this dialect of SQLAlchemy's."""
    return postgresql.insert if dialect == "postgresql" else sqlite.insert


def insert(connection: Connection, table: Table) -> Insert:
    """An insert that may say what becomes of a conflict."""
    return inserting(connection.dialect.name)(table)


class member(GenericFunction[str]):  # noqa: N801 - a function of SQL, as SQLAlchemy writes them
    """The text under a key of a JSON object, null where there is none. A quote in the key is not provided for."""

    type = Text()
    inherit_cache = True
    name = "cellyard_member"


@compiles(member, "sqlite")
def _member_in_sqlite(element: member, compiler: SQLCompiler, **options: Any) -> str:
    column, key = element.clauses
    return f"json_extract({compiler.process(column, **options)}, '$.\"' || {compiler.process(key, **options)} || '\"')"


@compiles(member, "postgresql")
def _member_in_postgresql(element: member, compiler: SQLCompiler, **options: Any) -> str:
    column, key = element.clauses
    return f"(({compiler.process(column, **options)})::json ->> {compiler.process(key, **options)})"
