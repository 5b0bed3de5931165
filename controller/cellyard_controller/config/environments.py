"""Sections of the configuration on packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    Field,
    field_validator,
)

from cellyard_controller.config.fields import Positive, Section, Size
from cellyard_controller.runtimes import MIB


class CondaConfig(Section):
    """Environments of conda packages."""

    channels: tuple[str, ...] = Field(
        default=(),
        description="URLs of the channels (https, http or file), the one that counts first at the front. Environments "
        "are made from these alone; definitions name them by URL, or by the last part of its path.",
    )
    prewarmed: tuple[str, ...] = Field(
        default=("python", "ipykernel"), description="What conda:prewarmed has: packages of the channels."
    )

    @field_validator("channels")
    @classmethod
    def _have_names(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        for channel in channels:
            if urlsplit(channel).scheme not in ("https", "http", "file") or not channel_name(channel):
                raise ValueError("a channel is a URL like https://HOST/NAME, http://HOST/NAME or file:///FOLDER/NAME")
        if len({channel_name(channel) for channel in channels}) < len(channels):
            raise ValueError("the last parts of the channels' paths are their names: no two may be the same")
        return channels

    @property
    def by_name(self) -> dict[str, str]:
        """The URLs of the channels by their names, in the configured order."""
        return {channel_name(channel): channel for channel in self.channels}


def channel_name(url: str) -> str:
    """What a channel is called by: the last part of its path."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2]


class EnvironmentsConfig(Section):
    """Environments that clients define: what may be in them, where packages come from, and how long they are kept."""

    index: str = Field(default="", description="URL of the package index; empty for the usual one of uv.")
    proxy: str = Field(default="", description="URL of the proxy through which the index is reached.")
    certificates: Path | None = Field(
        default=None, description="Authorities that index and proxy are trusted by, PEM; without it the usual ones."
    )
    python: Path | None = Field(
        default=None,
        description="An interpreter that every user may start, for uv to ask; unset, the controller's or system's.",
    )
    definition: Size = Field(default=256 * 1024, description="A project file, or a list of dependencies.")
    requirements: Size = Field(default=500, description="Dependencies of one environment, as listed.")
    size: Size = Field(default=2048 * MIB, description="One environment, and what is fetched for it.")
    fetch_timeout: Positive = Field(default=600.0, description="Resolving and fetching packages.")
    build_timeout: Positive = Field(default=600.0, description="Finishing an environment in a container.")
    at_once: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="Environments that are made at a time.")
    store: Size = Field(default=10 * 1024 * MIB, description="All environments that are kept.")
    max_age: Positive = Field(default=14 * 86400.0, description="One that nobody used for so long is removed.")
    conda: CondaConfig = CondaConfig()
