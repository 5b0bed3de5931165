"""The controller's configuration: defaults < file (TOML) < CELLYARD_* environment < flags.

Names are the same in all four: `pool.size`, `CELLYARD_POOL__SIZE`. `cellyard config show` prints what is in force.
Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from cellyard_controller.config.bounds import LibraryConfig, LimitsConfig, QuotasConfig, ReplicasConfig, SessionsConfig
from cellyard_controller.config.environments import EnvironmentsConfig
from cellyard_controller.config.fields import Positive
from cellyard_controller.config.sandboxes import (
    CapacityConfig,
    NetworkConfig,
    PoolConfig,
    SandboxesConfig,
    TemplateConfig,
)
from cellyard_controller.config.storing import NodeConfig, StoreConfig
from cellyard_controller.config.watching import AuditConfig, HttpConfig, LogConfig, TracingConfig
from cellyard_proto import amounts


def _absolute(path: Path) -> Path:
    """A container engine mounts no relative path, and `~` is the shell's."""
    return path.expanduser().absolute()


class Config(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(env_prefix="CELLYARD_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data: Annotated[Path, AfterValidator(_absolute)] = Field(
        default_factory=lambda: default_data(), description="Data folder, 0700."
    )
    listen: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Where to listen: unix:PATH or HOST:PORT, several allowed."
    )
    insecure_listen: bool = Field(default=False, description="Allow a TCP address beyond loopback without TLS.")
    tls_cert: Path | None = Field(default=None, description="Certificate chain for every TCP listener, PEM.")
    tls_key: Path | None = Field(default=None, description="Private key of the certificate, PEM.")
    tls_client_ca: Path | None = Field(
        default=None, description="Authority whose certificate every TCP client has to present, PEM."
    )
    reflection: bool = Field(
        default=False,
        description="Tell clients without .proto files, over gRPC, which services and messages there are.",
    )
    runtime: Annotated[tuple[Literal["docker", "process"], ...], NoDecode] = Field(
        ("docker",), description="Runtimes, default first."
    )
    on_stop: Literal["remove", "keep"] = Field("remove", description="What becomes of sandboxes at SIGTERM.")
    drain_timeout: Annotated[float, Field(ge=0)] = Field(
        default=5.0,
        description="What was accepted may go on for this long after SIGTERM, before sandboxes are removed.",
    )
    linger: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="End by itself after this long without session, execution or kernel; 0 means never."
    )
    upkeep_interval: Positive = Field(default=600.0, description="Between two rounds of forgetting what is old.")
    sandboxes: SandboxesConfig = SandboxesConfig()
    pool: PoolConfig = PoolConfig()
    capacity: CapacityConfig = CapacityConfig()
    network: NetworkConfig = NetworkConfig()
    environments: EnvironmentsConfig = EnvironmentsConfig()
    sessions: SessionsConfig = SessionsConfig()
    limits: LimitsConfig = LimitsConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    library: LibraryConfig = LibraryConfig()
    store: StoreConfig = StoreConfig()
    node: NodeConfig = NodeConfig()
    http: HttpConfig = HttpConfig()
    quotas: QuotasConfig = QuotasConfig()
    audit: AuditConfig = AuditConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()
    templates: dict[str, TemplateConfig] = Field(default_factory=lambda: {"default": TemplateConfig()})

    @field_validator("templates")
    @classmethod
    def _has_default(cls, templates: dict[str, TemplateConfig]) -> dict[str, TemplateConfig]:
        for name in templates:
            if not name or "@" in name:
                raise ValueError(f"a template cannot be called {name!r}: what follows @ is a version of Python")
        return {"default": TemplateConfig(), **templates}

    @model_validator(mode="after")
    def _conda_pools_have_channels(self) -> Self:
        for name, template in self.templates.items():
            if template.conda_pool and not self.environments.conda.channels:
                raise ValueError(f"templates.{name}.conda_pool needs environments.conda.channels")
        return self

    @field_validator("runtime", "listen", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """In the environment and in flags: `a,b`, or a JSON array as other lists are written there."""
        if not isinstance(value, str):
            return value
        if value.startswith("["):
            return json.loads(value)
        return tuple(part for part in value.split(",") if part)

    @model_validator(mode="after")
    def _fits_the_machine(self) -> Self:
        if self.pool.max is not None and self.pool.max < self.pool.size:
            raise ValueError(f"pool.size is {self.pool.size}, and pool.max only {self.pool.max}: raise pool.max")
        pooled = 0
        for name, template in self.templates.items():
            if template.memory > self.capacity.memory:
                raise ValueError(
                    f"templates.{name}.memory is {amounts.size(template.memory)}, and capacity.memory only "
                    f"{amounts.size(self.capacity.memory)}: no sandbox of it could ever start"
                )
            pooled += template.memory * self.warm(name)
        if pooled > self.capacity.memory:
            raise ValueError(
                f"the pools (pool.size, templates.*.pool) have {amounts.size(pooled)} of memory, and capacity.memory "
                f"is {amounts.size(self.capacity.memory)}: make the pools smaller"
            )
        return self

    def warm(self, template: str) -> int:
        """How many warm sandboxes of a template there are to be at least."""
        own = self.templates[template].pool
        usual = self.pool.size if template == "default" else 0
        return usual if own is None else own

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get("CELLYARD_CONFIG")
        toml = (TomlConfigSettingsSource(settings_cls, Path(file)),) if file else ()
        return (init_settings, env_settings, *toml)


def default_data() -> Path:
    """Where a controller keeps its data when nothing else is said: XDG's folder for state."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "cellyard"


def with_sources(config: Config, file: Path | None) -> dict[str, Any]:
    """The configuration nested as in the TOML, each leaf with `value` and `source` (default, file, environment)."""
    in_file = tomllib.loads(file.read_text()) if file else {}

    def explain(value: Any, path: tuple[str, ...], from_file: Any) -> Any:
        if isinstance(value, dict):
            nested = from_file if isinstance(from_file, dict) else {}
            return {name: explain(each, (*path, name), nested.get(name)) for name, each in value.items()}
        source = "default" if from_file is None else "file"
        if "CELLYARD_" + "__".join(path).upper() in os.environ:
            source = "environment"
        return {"value": value, "source": source}

    explained = explain(config.model_dump(mode="json"), (), in_file)
    return dict(explained)
