"""Which Python a kernel gets: the one that its session asks for, or that its environment's definition allows."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator
from dataclasses import replace

from packaging.specifiers import SpecifierSet

from cellyard_controller import templates
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest, Refused
from cellyard_controller.runtimes import Runtime
from cellyard_controller.sandboxes.catalogue import Catalogue
from cellyard_controller.sandboxes.sandbox import KernelSettings


class Pythons:
    """The interpreters of templates, as their images tell them themselves."""

    def __init__(self, catalogue: Catalogue, workshop: Workshop) -> None:
        self._catalogue, self._workshop = catalogue, workshop

    async def fitting(self, settings: KernelSettings) -> KernelSettings:
        """The same settings, with the template whose Python fits. Without a wish, the template's own.

        Raises EnvironmentFailed, which says what versions there are, and InvalidRequest, CapabilityUnavailable.
        """
        base, python = templates.split(settings.template)
        if python:
            if not settings.env_source.startswith("uv:"):
                raise InvalidRequest(f"{settings.env_source} brings what it runs with: no python_version goes with it")
            return await self._asked_for(settings, base, python)
        if settings.definition is not None and settings.definition.requires_python:
            return await self._allowed(settings, base, settings.definition.requires_python)
        return settings

    async def _asked_for(self, settings: KernelSettings, base: str, python: str) -> KernelSettings:
        runtime = self._catalogue.runtime(settings.runtime)
        if runtime.name == "process":
            own = ".".join(platform.python_version_tuple()[:2])
            if python != own:
                raise EnvironmentFailed(
                    f"Python {python} cannot be had: the process runtime has {own}", requirement="python"
                )
            return replace(settings, template=base)
        if python == templates.own_python(self._catalogue.defined(base)):
            return replace(settings, template=base)  # its pool serves it
        readiness = await runtime.readiness(self._catalogue.template(settings.template))
        why = "" if readiness.ready else readiness.reason
        if readiness.ready and await self._version(runtime, settings.template) == python:
            return settings
        raise templates.not_there(base, python, [each async for _, each in self._there(runtime, base)], why)

    async def _allowed(self, settings: KernelSettings, base: str, allowed: str) -> KernelSettings:
        runtime, found = self._catalogue.runtime(settings.runtime), []
        async for name, version in self._there(runtime, base):
            if SpecifierSet(allowed).contains(version, prereleases=True):
                return replace(settings, template=name)
            found.append(version)
        if not found:
            return settings  # nothing can be started: its start says why
        raise EnvironmentFailed(
            f"requires-python is {allowed}, and the template {base!r} has Python {', '.join(found)}",
            requirement="python",
        )

    async def _there(self, runtime: Runtime, base: str) -> AsyncIterator[tuple[str, str]]:
        """Names of the template and of what else it can be, with the whole version of each; its own first."""
        config = self._catalogue.defined(base)
        own = templates.own_python(config)
        others = [f"{base}@{python}" for python in templates.pythons(config) if python != own]
        for name in (base, *others):
            template = self._catalogue.template(name)
            if (await runtime.readiness(template)).ready:
                try:
                    interpreter = await self._workshop.interpreter(runtime, template)
                except Refused:
                    continue  # an image that does not tell what its Python is has none to be had
                yield name, interpreter.markers["python_full_version"]

    async def _version(self, runtime: Runtime, name: str) -> str:
        return (await self._workshop.interpreter(runtime, self._catalogue.template(name))).version
