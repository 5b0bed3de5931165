"""From the configuration to a node among others."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from cellyard_controller.cluster.cluster import Cluster
from cellyard_controller.cluster.leases import Identity
from cellyard_controller.config import Config
from cellyard_controller.sandboxes.plans import Kind, Need
from cellyard_controller.seal import Seal
from cellyard_controller.store import Store, StoreFailed, places, sqlite
from cellyard_controller.store.errors import cause
from cellyard_controller.store.schema import meta

_ID = "controller.id"
_SEAL = "seal"
_WILDCARDS = ("0.0.0.0", "[::]")


def join(config: Config, place: places.Postgres, store: Store, addresses: Sequence[str], seal: Seal) -> Cluster:
    """Takes the node's name for the controller of this data folder, which is locked. Blocks.

    `addresses`: where it listens. Raises NameTaken, StoreFailed, OSError.
    """
    _check_seal(place, seal)
    me = Identity(
        name=config.node.name or socket.gethostname()[:64],
        controller_id=_own_id(config.data, _id_on_sqlite(config.data)),
        endpoint=config.node.endpoint or _endpoint(addresses),
    )
    templates = [template.template(name, "", "") for name, template in config.templates.items()]
    default = next(each for each in templates if each.name == "default")
    return Cluster.join(
        place,
        store,
        me,
        config.node.lease,
        usual=(
            Kind(config.runtime[0], "default", "none", "python", "uv:prewarmed"),
            Need(1, default.memory_bytes, default.cpus),
        ),
        unit=Need(1, max(each.memory_bytes for each in templates), max(each.cpus for each in templates)),
    )


def _check_seal(place: places.Postgres, seal: Seal) -> None:
    """What one controller seals, the others have to open. Raises StoreFailed."""
    mark = seal.derive(b"the key of a shared store").hex()
    engine = places.engine(place, purpose="setup")
    try:
        with engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            connection.execute(insert(meta).values(key=_SEAL, value=mark).on_conflict_do_nothing())
            known = connection.execute(select(meta.c.value).where(meta.c.key == _SEAL)).scalar_one()
    except DBAPIError as failed:
        raise StoreFailed(f"the database {place} cannot be used: {cause(failed)}") from failed
    if known != mark:
        raise StoreFailed(
            f"what is secret in the database {place} is sealed with another key than this controller's: "
            "give store.key_file the one that its other controllers have"
        )


def _own_id(data: Path, before: str) -> str:
    """Of the data folder, for good: what its containers are known by. `before`: while it had SQLite's file."""
    path = data / _ID
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        made = before or uuid.uuid4().hex
        part = path.with_suffix(".part")
        with part.open("w") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        return made


def _id_on_sqlite(data: Path) -> str:
    """What the folder's containers were known by before its store went into PostgreSQL; empty where it had none."""
    path = data / places.DATABASE
    if not path.is_file():
        return ""
    engine = sqlite.engine(path, read_only=True)
    try:
        with engine.connect() as connection:
            return str(connection.execute(select(meta.c.value).where(meta.c.key == "controller_id")).scalar() or "")
    except DBAPIError:  # it is a store no more
        return ""
    finally:
        engine.dispose()


def _endpoint(addresses: Sequence[str]) -> str:
    """Where clients reach what listens there; those of other machines over TCP alone."""
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not address.startswith("unix:"):
            return f"{socket.getfqdn()}:{port}" if host in _WILDCARDS else address
    return next(iter(addresses), "")
