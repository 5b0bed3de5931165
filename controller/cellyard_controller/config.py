"""The controller's configuration: defaults < file (TOML) < CELLYARD_* environment < flags.

Names are the same in all four: `pool.size`, `CELLYARD_POOL__SIZE`. `cellyard config show` prints what is in force.
Sizes are bytes, times are seconds.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_serializer,
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

from cellyard_controller.egress.names import AllowList, host_name
from cellyard_controller.ids import LABEL_NAME
from cellyard_controller.runtimes import MIB, Template
from cellyard_controller.tenants import quotas
from cellyard_proto import amounts

Positive = Annotated[float, Field(gt=0)]
Size = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TemplateConfig(_Section):
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


class NetworkConfig(_Section):
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


class PoolConfig(_Section):
    """Sandboxes with a kernel that is up, which wait for a claim."""

    size: Annotated[int, Field(ge=0)] = Field(default=2, description="Warm sandboxes of the default template at least.")
    max: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Warm sandboxes of one template at most; between the two, as claims come. "
        "The usual is 16, and size where that is more.",
    )
    max_age: Positive = Field(default=3600.0, description="A warm sandbox is replaced after this.")
    review_interval: Positive = Field(default=5.0, description="Between two looks at what only time brings about.")


class CapacityConfig(_Section):
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


class SandboxesConfig(_Section):
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


class CondaConfig(_Section):
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


class EnvironmentsConfig(_Section):
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


class SessionsConfig(_Section):
    """Presence of clients."""

    grace: Positive = Field(default=30.0, description="A client that vanished counts as gone after this.")


class LimitsConfig(_Section):
    """What one request or one execution may be."""

    source: Size = Field(default=4 * MIB, description="Source of a cell; of an imported notebook, all together.")
    notebook: Size = Field(default=32 * MIB, description="A notebook to import, as JSON.")
    identifier: Size = Field(default=256, description="Characters of an id.")
    metadata: Size = Field(default=1 * MIB, description="One value of metadata.")
    output_bytes: Size = Field(default=16 * MIB, description="Output of one execution.")
    output_count: Size = Field(default=10_000, description="Outputs of one execution.")
    answer: Size = Field(default=16 * MIB, description="Answer to a call of the code, or a comm's message.")
    file: Size = Field(default=100 * MIB, description="A file that is uploaded or downloaded.")
    command_output: Size = Field(default=16 * MIB, description="Output of a command beside the kernel.")
    files: Size = Field(default=10 * MIB, description="Files that travel with a request, all together.")
    calls: Size = Field(default=10_000, description="Calls of one tenant at a time, open streams among them.")
    feeds: Size = Field(default=256, description="Uploads, commands and live replicas of one tenant at a time.")
    arrival: Positive = Field(default=60.0, description="From a call's begin until its request is there.")


class ReplicasConfig(_Section):
    """Live replicas of documents: the process that reads what they send, and what they may send."""

    streams: Size = Field(default=64, description="Live replicas of one notebook.")
    memory: Size = Field(default=1024 * MIB, description="Memory of the worker that reads what replicas send.")
    deadline: Positive = Field(default=10.0, description="Work on one message.")
    load_deadline: Positive = Field(default=60.0, description="Loading a document into the worker.")
    message: Size = Field(default=16 * MIB, description="One message of a replica, or to it.")
    changes: Size = Field(default=50_000, description="Changes in one message.")
    operations: Size = Field(default=500_000, description="Operations in one message; a character is one.")
    operations_at_once: Size = Field(default=50_000, description="Operations in one change.")
    document: Size = Field(default=64 * MIB, description="All changes of a document that replicas may add to.")


class LibraryConfig(_Section):
    """Workflows and artifacts that are kept for code mode: of each tenant, in all of its workspaces."""

    workflows: Size = Field(default=10_000, description="Workflows.")
    sources: Size = Field(default=64 * MIB, description="All workflows of a tenant, with what is said of them.")
    artifacts: Size = Field(default=100_000, description="Artifacts.")
    artifact: Size = Field(default=1024 * MIB, description="The content of one artifact.")


class StoreConfig(_Section):
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


class NodeConfig(_Section):
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


class HttpConfig(_Section):
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


class QuotasConfig(_Section):
    """What each tenant may have for whom nothing else was set; null, or "unlimited", is no limit. Not of `local`."""

    sandboxes: int | None = Field(default=None, description="Sandboxes that run or start.")
    memory: int | None = Field(default=None, description="Memory of its sandboxes, all together.")
    cpu: float | None = Field(default=None, description="Processors of its sandboxes, all together.")
    queued: int | None = Field(default=None, description="Executions that wait, in all of its notebooks.")
    notebooks: int | None = Field(default=None, description="Notebooks that are kept.")
    storage: int | None = Field(
        default=None, description="What is kept of documents, sources, outputs, workflows and artifacts."
    )
    rate: float | None = Field(default=None, description="Requests a second.")

    @field_validator("*", mode="before")
    @classmethod
    def _as_operators_write_it(cls, value: object, info: ValidationInfo) -> quotas.Limit:
        assert info.field_name is not None
        return quotas.parse(info.field_name, value)

    @property
    def quota(self) -> quotas.Quota:
        """The quotas as the rest of the controller takes them."""
        return quotas.Quota(**self.model_dump())


class AuditConfig(_Section):
    """The audit log: audit.jsonl in the data folder, and the files before it."""

    max_bytes: Size = Field(default=64 * MIB, description="Of one file; then another one begins.")
    files: Annotated[int, Field(ge=1, le=1000)] = Field(default=8, description="Files that are kept.")


class TracingConfig(_Section):
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


class LogConfig(_Section):
    """What the controller writes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="What is less is left out.")
    format: Literal["console", "json"] = Field(default="console", description="For people, or one object a line.")
    max_bytes: Size = Field(
        default=16 * MIB, description="Of a file that stderr is appended to; then it begins anew, and FILE.1 is kept."
    )


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
