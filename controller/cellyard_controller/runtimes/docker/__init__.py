"""Sandboxes as containers of a Docker engine."""

from cellyard_controller.runtimes.docker.runtime import DockerRuntime

__all__ = ["DockerRuntime"]
