"""Sections of the configuration for those who look on: HTTP, audit, traces and logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    field_validator,
)

from cellyard_controller.config.fields import Section, Size
from cellyard_controller.ids import LABEL_NAME
from cellyard_controller.runtimes import MIB


class HttpConfig(Section):
    """Health, metrics and the console over HTTP."""

    listen: str = Field(default="", description="HOST:PORT; empty for no HTTP.")
    hosts: tuple[str, ...] = Field(
        default=(),
        description="Names, NAME or NAME:PORT, by which browsers reach the console beside the address it is served at.",
    )
    token_file: Path | None = Field(
        default=None, description="File with the token for metrics; where none is named, DATA/http.token, made once."
    )
    tenants: bool = Field(
        default=False, description="Tell in metrics how much each tenant does, by its name: of 100 tenants at most."
    )
    labels: tuple[Annotated[str, Field(pattern=rf"^{LABEL_NAME}$")], ...] = Field(
        default=(), max_length=16, description="Names of notebooks' labels whose values are counted in metrics."
    )


class AuditConfig(Section):
    """The audit log: audit.jsonl in the data folder, and the files before it."""

    max_bytes: Size = Field(default=64 * MIB, description="Of one file; then another one begins.")
    files: Annotated[int, Field(ge=1, le=1000)] = Field(default=8, description="Files that are kept.")


class TracingConfig(Section):
    """Traces of calls and executions, exported by OTLP over HTTP: needs the extra `tracing`.

    Beside these the usual variables count: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SDK_DISABLED ...
    """

    endpoint: str = Field(
        default="", description="URL that spans are posted to, http://HOST:4318/v1/traces; empty for OTEL_*, or none."
    )
    tenants: bool = Field(default=False, description="Name tenants in spans.")

    @field_validator("endpoint")
    @classmethod
    def _is_http(cls, endpoint: str) -> str:
        if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname):
            raise ValueError("the endpoint for traces is a URL like http://HOST:4318/v1/traces")
        return endpoint

    @property
    def wanted(self) -> bool:
        """Whether spans go anywhere."""
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return False
        usual = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        return bool(self.endpoint or any(os.environ.get(name) for name in usual))


class LogConfig(Section):
    """What the controller writes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is less is left out.")
    format: Literal["console", "json"] = Field(default="console", description="For people, or one object a line.")
    max_bytes: Size = Field(
        default=16 * MIB, description="Of a file that stderr is appended to; then it begins anew, and FILE.1 is kept."
    )
