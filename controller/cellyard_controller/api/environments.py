"""The environments that clients define, checked once more: they may come from any client."""

from __future__ import annotations

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.conda_reading import (
    prewarmed,
    read_conda_list,
    read_environment_yml,
    read_pixi,
    require_channels,
)
from cellyard_controller.environments.definition import Definition
from cellyard_controller.environments.reading import Bounds, read_list, read_pyproject
from cellyard_controller.errors import InvalidRequest
from cellyard_proto.v1 import kernels_pb2

_DEFINED = {
    "uv:inline": "dependencies",
    "uv:pyproject": "project_file",
    "conda:inline": "dependencies",
    "conda:env_yml": "project_file",
    "pixi:toml": "project_file",
}
"""What each of them is defined by."""


def environment(
    kernel_type: str, wanted: str, message: kernels_pb2.KernelSettings, config: EnvironmentsConfig
) -> tuple[str, Definition | None]:
    """The environment that will run, and what has to be prepared for it. `auto` alone is left to the notebook.

    Nothing falls back in silence: what cannot be had is refused. Raises InvalidRequest, CapabilityUnavailable.
    """
    if kernel_type == "deno":
        return "deno", None  # there is no choice, so whatever else was asked for is ignored
    if wanted.startswith(("conda:", "pixi:")):
        require_channels(wanted, config)
    if wanted == "deno":
        raise InvalidRequest("the env_source 'deno' is that of kernels of the type 'deno'")
    sent = message.environment.WhichOneof("definition")
    if sent != _DEFINED.get(wanted):
        what = f"comes with {_DEFINED[wanted]}" if wanted in _DEFINED else "is defined by nothing that a client sends"
        raise InvalidRequest(f"unsupported definition of an environment: {wanted} {what}")
    if wanted == "conda:prewarmed":
        return wanted, prewarmed(config)
    if sent == "dependencies":
        listed = message.environment.dependencies
        if wanted == "conda:inline":
            return wanted, read_conda_list(listed.requirements, listed.channels, config)
        return wanted, read_list(listed.requirements, listed.requires_python, Bounds.of(config))
    if sent == "project_file":
        file = message.environment.project_file
        if wanted == "conda:env_yml":
            return wanted, read_environment_yml(file.content, config)
        if wanted == "pixi:toml":
            return wanted, read_pixi(file.content, config)
        return wanted, read_pyproject(file.content, Bounds.of(config))
    return wanted, None
