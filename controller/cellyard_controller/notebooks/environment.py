"""A kernel's environment: what the notebook's metadata lists, where the client has left it to that; and its making."""

from __future__ import annotations

from dataclasses import replace

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.conda_reading import read_conda_list, require_channels
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.sandboxes.sandbox import KernelSettings
from cellyard_proto.environments import Malformed, inline

USUAL = "uv:prewarmed"
_LOOK_AGAIN = 5.0
"""Seconds."""


def settled(settings: KernelSettings, metadata: str | None, config: EnvironmentsConfig) -> KernelSettings:
    """The same settings with no `auto` in them. `metadata`: nbformat's, as JSON text.

    Raises InvalidRequest for dependencies that are refused, CapabilityUnavailable where conda has no channel.
    """
    if settings.env_source != "auto":
        return settings
    try:
        found = inline(metadata)
    except Malformed as malformed:
        raise InvalidRequest(str(malformed)) from None
    if found is None:
        return replace(settings, env_source=USUAL)
    if found.env_source == "conda:inline":
        require_channels(found.env_source, config)
        definition = read_conda_list(found.requirements, found.channels, config)
    else:
        definition = read_list(found.requirements, found.requires_python, Bounds.of(config))
    return replace(settings, env_source=found.env_source, definition=definition)


class Making:
    """How long an environment has been in the making while executions waited: that does not count for them."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._owed = 0.0

    def told(self, now: float, making: bool) -> None:
        """It is being made, or is not any more."""
        if self._since is not None:
            self._owed += now - self._since
        self._since = now if making else None

    def owed(self, now: float) -> float:
        """By how many seconds deadlines are to move since this was asked last; some, while it is being made."""
        going_on = self._since is not None
        self.told(now, going_on)
        owed, self._owed = self._owed, 0.0
        return max(owed, _LOOK_AGAIN) if going_on else owed
