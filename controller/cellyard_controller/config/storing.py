"""Sections of the configuration on the store, and on those who share it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

from cellyard_controller.config.fields import Section


class StoreConfig(Section):
    """Where notebooks, executions and tenants are kept."""

    url: str = Field(
        default="",
        description="PostgreSQL: postgresql://USER@HOST:PORT/DATABASE; empty for SQLite's file in the data folder.",
    )
    password_file: Path | None = Field(default=None, description="File with the password for PostgreSQL.")
    blobs: Literal["folder", "database"] = Field(
        default="folder", description="Where large outputs and artifacts are kept: as files, or in PostgreSQL."
    )
    blobs_folder: Path | None = Field(
        default=None, description="Folder of these files, shared by all controllers of a database; unset, DATA/blobs."
    )

    key_file: Path | None = Field(
        default=None,
        description="File with the key that seals what may be secret in the store, the same for all controllers of "
        "a database; unset, DATA/seal.key.",
    )

    @field_validator("url")
    @classmethod
    def _is_postgresql(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/")):
            raise ValueError("the store's URL is postgresql://USER@HOST:PORT/DATABASE, or empty")
        return url

    @field_validator("blobs_folder", "password_file", "key_file", mode="before")
    @classmethod
    def _unset(cls, path: object) -> object:
        return path or None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.url and self.blobs == "database":
            raise ValueError('store.blobs "database" needs PostgreSQL: set store.url')
        return self

    @field_serializer("url")
    def _without_password(self, url: str) -> str:
        """Nothing that is shown has it."""
        return re.sub(r"(?<=://)([^/@:]*):[^/]*@", r"\1:***@", url)


class NodeConfig(Section):
    """This controller among others that share a store on PostgreSQL."""

    name: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")] = Field(
        default="", description="What the node is called, by nobody else; empty for the machine's name."
    )
    endpoint: str = Field(
        default="", description="HOST:PORT that clients reach this controller at; empty for its first TCP address."
    )
    lease: Annotated[float, Field(ge=3, le=10)] = Field(
        default=8.0, description="A node that has not been heard of for so long has lost its notebooks."
    )
    away: Annotated[float, Field(ge=0, le=600)] = Field(
        default=30.0, description="A controller that was stopped and kept its sandboxes is waited for this long."
    )
