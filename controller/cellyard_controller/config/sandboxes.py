"""Sections of the configuration on sandboxes: what they are made from, and how many there are."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from cellyard_controller.config.fields import Positive, Section, Size
from cellyard_controller.egress.names import AllowList, host_name
from cellyard_controller.runtimes import MIB, Template


class TemplateConfig(Section):
    """One template: image and limits of its sandboxes."""

    runtime: Literal["docker", "process"] | None = Field(
        default=None, description="Runtime of its warm sandboxes; unset, the first of `runtime`."
    )
    image: str = Field(default="", description="Image reference; empty for the image that this release builds.")
    python: dict[Annotated[str, Field(pattern=r"^\d{1,2}\.\d{1,3}$")], str] = Field(
        default_factory=dict, description="Images with other Pythons, by version; empty for this release's."
    )
    tenants: tuple[str, ...] | None = Field(
        default=None, description="Tenants who may name it, beside the operator; unset, all."
    )
    oci_runtime: str = Field(default="", description="OCI runtime of the engine; empty for the engine's default.")
    network: Literal["none", "allowlist"] = Field(
        default="none", description="Network policy of its sandboxes where a session names none."
    )
    allow: tuple[str, ...] = Field(
        default=(), description="What sandboxes with the policy allowlist may reach: name:port, *.name:port."
    )
    network_open: bool = Field(default=False, description="Let sessions ask for the network policy open.")
    memory: Size = Field(default=1024 * MIB, description="Memory of a sandbox, swap included.")
    cpus: Positive = Field(default=1.0, description="Processors of a sandbox.")
    pids: Annotated[int, Field(ge=32)] = Field(default=256, description="Processes and threads of a sandbox.")
    home: Size = Field(default=512 * MIB, description="Size of the home folder, counted as memory.")
    tmp: Size = Field(default=256 * MIB, description="Size of /tmp, counted as memory.")
    shm: Size = Field(default=64 * MIB, description="Size of /dev/shm, counted as memory.")
    pool: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Warm sandboxes of this template at least; the default template's are pool.size."
    )
    deno_pool: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Warm sandboxes of this template with a Deno kernel at least."
    )
    conda_pool: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Warm sandboxes of this template with conda:prewarmed at least."
    )

    @field_validator("allow")
    @classmethod
    def _names(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        AllowList(allow)
        return allow

    @model_validator(mode="after")
    def _has_a_list(self) -> Self:
        if self.network == "allowlist" and not self.allow:
            raise ValueError('network = "allowlist" needs a list: allow = ["name:port", ...]')
        return self

    def template(self, name: str, image: str, python: str) -> Template:
        """The template as runtimes take it, with one of its images."""
        return Template(
            name=name,
            image=image,
            python=python,
            oci_runtime=self.oci_runtime,
            network=self.network,
            memory_bytes=self.memory,
            cpus=self.cpus,
            pids=self.pids,
            home_bytes=self.home,
            tmp_bytes=self.tmp,
            shm_bytes=self.shm,
        )


class NetworkConfig(Section):
    """The proxy that sandboxes with the policy allowlist go out through."""

    connections: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=64, description="Connections of one sandbox at a time."
    )
    hosts: dict[str, str] = Field(
        default_factory=dict,
        description="Names with the address that they lead to, in place of DNS; it may be private: a mirror's.",
    )

    @field_validator("hosts")
    @classmethod
    def _names_and_addresses(cls, hosts: dict[str, str]) -> dict[str, str]:
        return {host_name(name): str(ip_address(address)) for name, address in hosts.items()}


def usual_memory() -> int:
    """What sandboxes may have of this machine's memory where nothing else is said, in bytes."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(machine * 9 // 10, 4096 * MIB)


class PoolConfig(Section):
    """Sandboxes with a kernel that is up, which wait for a claim."""

    size: Annotated[int, Field(ge=0)] = Field(default=2, description="Warm sandboxes of the default template at least.")
    max: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Warm sandboxes of one template at most; between the two, as claims come. "
        "The usual is 16, and size where that is more.",
    )
    max_age: Positive = Field(default=3600.0, description="A warm sandbox is replaced after this.")
    review_interval: Positive = Field(default=5.0, description="Between two looks at what only time brings about.")


class CapacityConfig(Section):
    """How much of the machine sandboxes may have in all. A sandbox counts with its template's limits."""

    sandboxes: Size = Field(default=256, description="Sandboxes in all.")
    memory: Size = Field(
        default_factory=usual_memory,
        description="Memory of all sandboxes; the usual is 90 % of the machine's, and 4 GiB at least.",
    )
    cpus: Positive | None = Field(
        default=None, description="Processors of all sandboxes; without it they share what there is."
    )

    weights: dict[str, Positive] = Field(
        default_factory=dict,
        description="Tenants whose part of the machine is to be larger or smaller than others', which count 1.",
    )


class SandboxesConfig(Section):
    """Lives of sandboxes and kernels."""

    start_timeout: Positive = Field(default=300.0, description="From accepting an execution to its start.")
    idle_timeout: Positive = Field(default=1800.0, description="A sandbox that nobody uses ends after this.")
    ttl: Positive = Field(default=86400.0, description="A sandbox ends this long after its claim.")
    link_grace: Positive = Field(default=600.0, description="An agent without a controller ends after this.")
    ping_interval: Positive = Field(default=5.0, description="Between two pings of an agent; three misses end it.")
    evict_after: Positive | None = Field(
        default=300.0,
        description="A sandbox that was unused for this long may be ended where somebody else waits for room whose "
        "tenant has less; unset it is never.",
    )
    engine_calls: Annotated[int, Field(ge=1, le=32)] = Field(default=8, description="Engine calls at a time.")
