"""What sandboxes can be made from: runtimes, templates, and what has been proven of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cellyard_controller import templates
from cellyard_controller.config import Config, TemplateConfig
from cellyard_controller.errors import (
    CapabilityUnavailable,
    InvalidRequest,
    NotYetProven,
    PermissionDenied,
    Refused,
)
from cellyard_controller.runtimes import CapabilityFact, Runtime, Template
from cellyard_controller.sandboxes.plans import Kind, Need
from cellyard_controller.sandboxes.pool import Bounds as PoolBounds
from cellyard_controller.sandboxes.sandbox import KernelSettings, Sandbox

_USUAL_MOST = 16
_PROBED_AGAIN = 30.0
"""Seconds after which a runtime, when it is asked, no longer believes that something was not proven."""
CONDA_PREWARMED = "conda:prewarmed"
NETWORKS = ("none", "allowlist", "open")


class Catalogue:
    """The runtimes and templates of this controller."""

    def __init__(self, runtimes: Mapping[str, Runtime], config: Config) -> None:
        self._runtimes, self._config = runtimes, config

    @property
    def default_runtime(self) -> str:
        """The runtime of kernels that name none."""
        return self._config.runtime[0]

    @property
    def templates(self) -> tuple[str, ...]:
        """The names of all templates."""
        return tuple(self._config.templates)

    def runtime(self, name: str) -> Runtime:
        """A runtime that is served. Raises InvalidRequest, CapabilityUnavailable."""
        name = name or self.default_runtime
        if name not in self._runtimes:
            if name not in ("docker", "process"):
                raise InvalidRequest(f"unknown runtime {name!r}: docker or process")
            raise CapabilityUnavailable(f"this controller does not serve the runtime {name!r}", runtime=name)
        return self._runtimes[name]

    def template(self, name: str, network: str = "", kernel_type: str = "python") -> Template:
        """A template that the operator defined, with this network policy or its own. Raises InvalidRequest.

        Its image is for Python kernels; other kernels run in this release's image for them, with its limits.
        """
        template = templates.find(self._config.templates, name)
        if template is None:
            raise self._unknown(name)
        if kernel_type != "python":
            template = replace(template, image="", python="", kernel_type=kernel_type)
        return replace(template, network=network) if network else template

    def is_current(self, template: Template) -> bool:
        """Whether the operator defines it as it is here; the policy allowlist comes with a claim alone."""
        try:
            return template == self.template(template.name, template.network, template.kernel_type)
        except Refused:
            return False

    def kind(self, settings: KernelSettings, environment: str = "") -> Kind:
        """What a sandbox for these settings has to be, before it is claimed. Raises InvalidRequest and the like.

        `environment`: the prepared one, where the settings define one.
        """
        return Kind(
            runtime=self.runtime(settings.runtime).name,
            template=settings.template or "default",
            network="open" if settings.network == "open" else "none",
            kernel_type=settings.kernel_type,
            env_source=settings.env_source,
            environment=environment,
        )

    def need(self, kind: Kind) -> Need:
        """What a sandbox takes of the machine, and of its tenant's quota. Raises InvalidRequest."""
        template = self.template(kind.template)
        return Need(1, template.memory_bytes, template.cpus)

    def pools(self) -> dict[Kind, PoolBounds]:
        """The pools that are kept, with their sizes."""
        kinds, most = {}, self._config.pool.max
        for name, config in self._config.templates.items():
            least = self._config.warm(name)
            if least:
                runtime = config.runtime or self.default_runtime
                kinds[Kind(runtime, name, "none", "python", "uv:prewarmed")] = PoolBounds(
                    least, max(_USUAL_MOST, least) if most is None else most
                )
            if config.deno_pool:
                kinds[Kind("docker", name, "none", "deno", "deno")] = PoolBounds(
                    config.deno_pool, max(_USUAL_MOST if most is None else most, config.deno_pool)
                )
        return kinds

    def conda_pools(self) -> dict[Kind, PoolBounds]:
        """The pools of conda:prewarmed that are kept once there is their environment, which has no name here yet."""
        most = self._config.pool.max
        return {
            Kind("docker", name, "none", "python", CONDA_PREWARMED): PoolBounds(
                config.conda_pool, max(_USUAL_MOST if most is None else most, config.conda_pool)
            )
            for name, config in self._config.templates.items()
            if config.conda_pool
        }

    def allow(self, template: str) -> tuple[str, ...]:
        """What sandboxes of this template may reach with the policy allowlist; nothing where it is gone."""
        config = self._config.templates.get(templates.split(template)[0])
        return config.allow if config is not None else ()

    def defined(self, name: str) -> TemplateConfig:
        """What the operator says of a template, whatever Python it is asked for with. Raises InvalidRequest."""
        config = self._config.templates.get(templates.split(name)[0])
        if config is None:
            raise self._unknown(name)
        return config

    def same_template(self, wanted: str, running: str) -> bool:
        """Whether a kernel of one is what somebody asks for who names the other; without a Python, any is."""
        (base, python), (has_base, has) = templates.split(wanted), templates.split(running)
        return base == has_base and python in ("", has or templates.own_python(self.defined(base)))

    def _unknown(self, name: str) -> InvalidRequest:
        return templates.unknown(name, self._config.templates)

    def check_known(self, settings: KernelSettings) -> None:
        """Runtime and template exist, and the operator allows the network policy.

        Raises InvalidRequest, CapabilityUnavailable, PermissionDenied.
        """
        self.check_network(settings.runtime, settings.template, settings.network)
        if settings.kernel_type == "deno" and self.runtime(settings.runtime).name == "process":
            why = "Deno kernels run in containers alone: their image brings Deno with it"
            raise CapabilityUnavailable(why, runtime=settings.runtime)
        if settings.definition is not None and self.runtime(settings.runtime).name == "process":
            raise CapabilityUnavailable(
                f"the process runtime has uv:prewarmed alone: {settings.env_source} needs a container",
                runtime="process",
            )

    def check_network(self, runtime: str, template: str, network: str) -> None:
        """The operator allows this policy for the template's sandboxes. Raises as `check_known`."""
        served, config = self.runtime(runtime), self.defined(template)
        if network not in NETWORKS:
            raise InvalidRequest(f"unknown network policy {network!r}: one of {', '.join(NETWORKS)}")
        if network == "none":
            return
        if served.name == "process":
            why = f"the process runtime confines no network: {network} cannot be had there"
            raise CapabilityUnavailable(why, runtime=served.name)
        if not (config.network_open if network == "open" else config.allow):
            setting = "network_open" if network == "open" else "allow"
            raise PermissionDenied(
                f"the template {template!r} does not allow the network policy {network!r}: "
                f"its setting {setting!r} is the operator's",
                template=template,
            )

    async def ready(self, runtimes: Sequence[str]) -> tuple[bool, str]:
        """Whether the default runtime of these can start a sandbox now, and why not."""
        if not runtimes:
            return False, "no runtime is served to this caller"
        readiness = await self.runtime(runtimes[0]).readiness(self.template("default"))
        return readiness.ready, readiness.reason

    async def capabilities(self, runtime: str, template: str, network: str = "") -> list[CapabilityFact]:
        """What has been proven for this runtime's sandboxes of this template, with this policy or its own."""
        return await self.runtime(runtime).capabilities(self.template(template, network))

    async def granted(self, runtime: Runtime, template: Template, env_source: str) -> tuple[str, ...]:
        """The names of the capabilities that have been proven, as far as kernels of this environment have them."""
        facts = await runtime.capabilities(template)
        return tuple(fact.name for fact in facts if fact.granted and not _kept_from(fact.name, env_source))

    async def require(self, settings: KernelSettings) -> None:
        """Raises CapabilityUnavailable where a required one is not granted, NotYetProven where it is only late."""
        runtime = self.runtime(settings.runtime)
        facts = await runtime.capabilities(self.template(settings.template, settings.network, settings.kernel_type))
        kept = {fact.name: _kept_from(fact.name, settings.env_source) for fact in facts}
        granted = {fact.name for fact in facts if fact.granted and not kept[fact.name]}
        evidence = {fact.name: kept[fact.name] or fact.evidence for fact in facts}
        late = {fact.name for fact in facts if fact.late and not kept[fact.name]}
        missing = sorted(settings.require - granted)
        for name in sorted(missing, key=late.__contains__):  # what no patience brings is told first
            why = evidence.get(name, f"the runtime {settings.runtime!r} does not offer it")
            message = f"{name} is required and not granted: {why}"
            if name in late:
                again = "it is probed again within half a minute, and this may be asked for again then"
                raise NotYetProven(f"{message}; {again}", retry_after_s=_PROBED_AGAIN, capability=name)
            raise CapabilityUnavailable(message, capability=name)

    def check_proven(self, settings: KernelSettings, sandbox: Sandbox) -> None:
        """Nobody joins a sandbox with less than they require. Raises CapabilityUnavailable."""
        for name in sorted(settings.require - set(sandbox.capabilities)):
            raise CapabilityUnavailable(
                f"{name} is required, and the running sandbox does not have it", capability=name
            )


def _kept_from(capability: str, env_source: str) -> str:
    """Why kernels of an environment do not have what the runtime can do; "" where they do."""
    if capability == "deps_install" and env_source.startswith(("conda:", "pixi:")):
        return f"{env_source} has packages of conda's, beside which none of PyPI's are installed"
    return ""
