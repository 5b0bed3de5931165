"""Every metric that the controller tells, declared once. docs/operations.md has the same table; a test compares them.

Most are read off the state of things when somebody asks; what leaves no trace is counted where it happens (tallies).
Labels are names that an operator or this program chose, never ids: the number of series does not grow with use.
To add one: a `Metric` in METRICS, with a function that reads it from the Sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from cellyard_controller import __version__
from cellyard_controller.api.counts import Calls
from cellyard_controller.cluster.cluster import Cluster
from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.lifecycle import SandboxState
from cellyard_controller.sandboxes.pool import PoolView
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.store import Store
from cellyard_controller.tallies import Durations, DurationsBy, Labels, Spread, Tally
from cellyard_controller.web import labelled
from cellyard_controller.web.standing import Standing


@dataclass(frozen=True, slots=True)
class Sources:
    """What metrics are read from."""

    supervisor: Supervisor
    rooms: Rooms
    store: Store
    standing: Standing
    calls: Calls
    tenants: bool
    """Whether tenants may be named."""
    cluster: Cluster | None = None
    """None where the controller keeps its store for itself."""


class Kind(StrEnum):
    """The kinds of metrics."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name as it is told, what it says, and where that stands."""

    kind: Kind
    name: str
    says: str
    labels: tuple[str, ...]
    read: Callable[[Sources], Mapping[Labels, float] | Mapping[Labels, Spread]]


def gauge(name: str, says: str, read: Callable[[Sources], Mapping[Labels, float]], *labels: str) -> Metric:
    """Something that goes up and down."""
    return Metric(Kind.GAUGE, name, says, labels, read)


def counter(name: str, says: str, read: Callable[[Sources], Tally], *labels: str) -> Metric:
    """Something that only grows, from the controller's start."""

    def counts(sources: Sources) -> Mapping[Labels, float]:
        found = read(sources).read()
        return found if labels else {(): found.get((), 0)}  # without labels there is a zero from the beginning

    return Metric(Kind.COUNTER, name, says, labels, counts)


def histogram(name: str, says: str, read: Callable[[Sources], Durations | DurationsBy], *labels: str) -> Metric:
    """How long something took."""

    def spreads(sources: Sources) -> Mapping[Labels, Spread]:
        found = read(sources).read()
        return {(): found} if isinstance(found, Spread) else found

    return Metric(Kind.HISTOGRAM, name, says, labels, spreads)


def _sandboxes(sources: Sources) -> Mapping[Labels, float]:
    found = Counter((each.template.name, each.state.value) for each in sources.supervisor.sandboxes())
    states = [state.value for state in SandboxState if state is not SandboxState.ENDED]
    templates = {*sources.supervisor.catalogue.templates, *(template for template, _ in found)}
    return {(template, state): found[template, state] for template in sorted(templates) for state in states}


def _lease_left(sources: Sources) -> Mapping[Labels, float]:
    return {} if sources.cluster is None else {(): sources.cluster.lease_left_s}


def _nodes(sources: Sources) -> Mapping[Labels, float]:
    if sources.cluster is None:
        return {}
    found = sources.cluster.states()
    return {(state,): found[state] for state in (*NodeState, "failing")}


def _linked(sources: Sources) -> Mapping[Labels, float]:
    return {(): sum(each.link.up for each in sources.supervisor.sandboxes())}


def _granted(sources: Sources) -> Mapping[Labels, float]:
    return {(*key, fact.name): float(fact.granted) for key, facts in sources.standing.facts.items() for fact in facts}


def _ready(sources: Sources) -> Mapping[Labels, float]:
    return {(runtime,): float(ready) for runtime, ready in sources.standing.ready.items()}


def _pooled(read: Callable[[PoolView], float]) -> Callable[[Sources], Mapping[Labels, float]]:
    def read_all(sources: Sources) -> Mapping[Labels, float]:
        return {
            (pool.kind.template, pool.kind.kernel_type, pool.kind.env_source): read(pool)
            for pool in sources.supervisor.pools()
        }

    return read_all


def _waiting(sources: Sources) -> Mapping[Labels, float]:
    found = Counter(sources.supervisor.waiting())
    return {(reason,): found[reason] for reason in ("capacity", "sandboxes", "memory", "cpu")}


def _bounded(counts: Mapping[Labels, float]) -> Mapping[Labels, float]:
    """Of what is counted by tenant, in its first label: the 100 who count most, and all others under one name."""
    sums = Counter[str]()
    for labels, count in counts.items():
        sums[labels[0]] += int(count)
    named = {tenant for tenant, _ in sums.most_common(labelled.MAX_VALUES)}
    found = Counter[Labels]()
    for labels, count in counts.items():
        found[labels if labels[0] in named else (labelled.OTHERS, *labels[1:])] += int(count)
    return found


def _tenant_executions(sources: Sources) -> Mapping[Labels, float]:
    # Whoever is among the 100 may change, and a series that is told must not go back: so these are told by their names
    # as long as there are no more than that, and then those that came first.
    counts = sources.rooms.counts.by_tenant.read()
    first = list(dict.fromkeys(tenant for tenant, _ in counts))[: labelled.MAX_VALUES]
    found = Counter[Labels]()
    for (tenant, end), count in counts.items():
        found[tenant if tenant in first else labelled.OTHERS, end] += count
    return found if sources.tenants else {}


def _tenant_queued(sources: Sources) -> Mapping[Labels, float]:
    if not sources.tenants:
        return {}
    return _bounded({(tenant,): count for tenant, count in sources.rooms.waiting_by_tenant.items()})


def _tenant_sandboxes(sources: Sources) -> Mapping[Labels, float]:
    if not sources.tenants:
        return {}
    return _bounded(Counter((s.notebook.tenant,) for s in sources.supervisor.sandboxes() if s.notebook is not None))


METRICS = (
    gauge("cellyard_build_info", "Always 1; the version is a label.", lambda _: {(__version__,): 1}, "version"),
    gauge("cellyard_runtime_ready", "Whether the runtime can start sandboxes.", _ready, "runtime"),
    gauge(
        "cellyard_capability_granted",
        "Whether a probe has shown the capability; `cellyard doctor` has the evidence.",
        _granted,
        "runtime",
        "template",
        "network",
        "capability",
    ),
    gauge("cellyard_sandboxes", "Sandboxes that have not ended.", _sandboxes, "template", "state"),
    gauge(
        "cellyard_claims_waiting", "Notebooks that wait for others to let go, by what is used up.", _waiting, "reason"
    ),
    gauge(
        "cellyard_pool_target",
        "How many warm sandboxes there are to be.",
        _pooled(lambda pool: pool.target),
        "template",
        "kernel",
        "env_source",
    ),
    gauge("cellyard_pool_warm", "Warm sandboxes.", _pooled(lambda pool: pool.warm), "template", "kernel", "env_source"),
    gauge(
        "cellyard_pool_oldest_seconds",
        "Age of the oldest warm sandbox.",
        _pooled(lambda pool: pool.oldest_s),
        "template",
        "kernel",
        "env_source",
    ),
    gauge(
        "cellyard_pool_lead_seconds",
        "What making a sandbox takes, of late.",
        _pooled(lambda pool: pool.demand.lead_s),
        "template",
        "kernel",
        "env_source",
    ),
    counter(
        "cellyard_pool_claims_total",
        "Claims, by whether they found a warm sandbox.",
        lambda sources: sources.supervisor.counts.claims,
        "template",
        "found",
    ),
    histogram(
        "cellyard_claim_seconds",
        "From asking for a sandbox to having it, by whether a warm one was there.",
        lambda sources: sources.supervisor.counts.claim_seconds,
        "found",
    ),
    counter(
        "cellyard_links_total",
        "Connections of agents: for the first time, or again.",
        lambda sources: sources.supervisor.counts.links,
        "kind",
    ),
    counter(
        "cellyard_environments_total",
        "Environments that were to be made, by what came of it: `made` or `failed`.",
        lambda sources: sources.supervisor.environments.outcomes,
        "outcome",
    ),
    gauge("cellyard_sandboxes_linked", "Sandboxes whose agent is connected.", _linked),
    counter(
        "cellyard_sandbox_starts_total",
        "Sandboxes that were begun, whatever became of them.",
        lambda sources: sources.supervisor.counts.starts,
        "template",
    ),
    histogram(
        "cellyard_sandbox_start_seconds",
        "From the decision to start a sandbox to its kernel being ready.",
        lambda sources: sources.supervisor.counts.start_seconds,
    ),
    counter(
        "cellyard_sandbox_ends_total",
        "Sandboxes that ended, by the typed reason.",
        lambda sources: sources.supervisor.counts.ends,
        "template",
        "reason",
    ),
    counter(
        "cellyard_egress_denials_total",
        "Connections that sandboxes were refused and told of: each once a minute, 20 of a sandbox in a minute.",
        lambda sources: sources.supervisor.counts.denials,
        "reason",
    ),
    gauge(
        "cellyard_labelled_notebooks",
        "Notebooks by their labels named in `http.labels`: the 100 most frequent values, and `(others)`.",
        lambda sources: sources.standing.notebooks,
        "label",
        "value",
    ),
    gauge(
        "cellyard_labelled_sandboxes",
        "Sandboxes by the labels of the notebook that they serve, likewise.",
        lambda sources: sources.standing.sandboxes,
        "label",
        "value",
    ),
    gauge("cellyard_rooms_loaded", "Notebooks in memory.", lambda sources: {(): sources.rooms.loaded}),
    gauge(
        "cellyard_executions_queued",
        "Executions that wait for a kernel, or for their turn in it.",
        lambda sources: {(): sources.rooms.waiting},
    ),
    counter(
        "cellyard_executions_total",
        "Executions that ended, by their end.",
        lambda sources: sources.rooms.counts.ends,
        "end",
    ),
    counter(
        "cellyard_executions_cut_short_total",
        "Executions that ended lost or cancelled, by the reason.",
        lambda sources: sources.rooms.counts.cut_short,
        "end",
        "reason",
    ),
    counter(
        "cellyard_limits_hit_total",
        "Executions that reached a limit: `timeout`, `start_timeout`, `memory`, `output`.",
        lambda sources: sources.rooms.counts.limits,
        "limit",
    ),
    histogram(
        "cellyard_execution_seconds",
        "From an execution's start in the kernel to its end.",
        lambda sources: sources.rooms.counts.seconds,
    ),
    histogram(
        "cellyard_execution_wait_seconds",
        "From an execution's acceptance to its start in the kernel.",
        lambda sources: sources.rooms.counts.wait_seconds,
    ),
    gauge("cellyard_sessions", "Sessions that are attached.", lambda sources: {(): sources.rooms.sessions}),
    gauge(
        "cellyard_calls_open", "gRPC calls that go on, streams among them.", lambda sources: {(): sources.calls.open}
    ),
    counter(
        "cellyard_calls_total",
        "gRPC calls that ended, by `ok`, the reason of a refusal, `client_gone` or `internal_error`.",
        lambda sources: sources.calls.outcomes,
        "method",
        "outcome",
    ),
    histogram(
        "cellyard_call_seconds",
        "gRPC calls with one answer that was no refusal.",
        lambda sources: sources.calls.seconds,
        "method",
    ),
    counter(
        "cellyard_quota_refusals_total",
        "Calls that were refused because something is used up: a quota by its name, or `calls` at a time.",
        lambda sources: sources.calls.quotas,
        "quota",
    ),
    Metric(
        Kind.COUNTER,
        "cellyard_tenant_executions_total",
        "Executions that ended, by tenant: only with `http.tenants`; the 100 who came first, and `(others)`.",
        ("tenant", "end"),
        _tenant_executions,
    ),
    gauge(
        "cellyard_tenant_queued",
        "Executions that wait, by tenant: only with `http.tenants`; the 100 with most, and `(others)`.",
        _tenant_queued,
        "tenant",
    ),
    gauge(
        "cellyard_tenant_sandboxes",
        "Sandboxes that serve a notebook, by tenant: only with `http.tenants`; the 100 with most, and `(others)`.",
        _tenant_sandboxes,
        "tenant",
    ),
    gauge(
        "cellyard_store_bytes",
        "What is on disk, measured each minute: `database`, and `files` for large outputs and artifacts.",
        lambda sources: sources.standing.bytes_kept,
        "part",
    ),
    gauge(
        "cellyard_store_free_bytes",
        "Room on the data folder's file system, measured each minute.",
        lambda sources: sources.standing.bytes_free,
    ),
    histogram(
        "cellyard_store_write_seconds",
        "From asking for something to be stored until it is on disk, or refused.",
        lambda sources: sources.store.write_seconds,
    ),
    histogram(
        "cellyard_store_commit_seconds",
        "Transactions on disk, however many writes shared one.",
        lambda sources: sources.store.commit_seconds,
    ),
    counter(
        "cellyard_store_failures_total",
        "Writes that the database did not take.",
        lambda sources: sources.store.failures,
    ),
    gauge(
        "cellyard_lease_left_seconds",
        "Until this node's lease ends unless it is renewed: only where the store is shared.",
        _lease_left,
    ),
    gauge(
        "cellyard_nodes",
        "Nodes that share the store as this one sees them; `failing` serve, and nothing comes up on them.",
        _nodes,
        "state",
    ),
)
"""Beside these, it tells what Prometheus' client library knows of any process: `process_*` and `python_gc_*`."""


class _Declared(Collector):
    """Reads all of METRICS when somebody asks."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Family]:
        return (_family(metric, metric.read(self._sources)) for metric in METRICS)

    def describe(self) -> Iterable[Family]:
        return ()  # else the registry would read everything to learn the names


def registry(sources: Sources) -> CollectorRegistry:
    """A registry of this controller's own: another one in the same process has another."""
    made = CollectorRegistry()
    made.register(_Declared(sources))
    ProcessCollector(registry=made)
    GCCollector(registry=made)
    return made


_FAMILIES: Mapping[Kind, Callable[..., Any]] = {
    Kind.COUNTER: CounterMetricFamily,
    Kind.GAUGE: GaugeMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def _family(metric: Metric, found: Mapping[Labels, float] | Mapping[Labels, Spread]) -> Family:
    family = _FAMILIES[metric.kind](metric.name, metric.says, labels=metric.labels)
    for labels, value in found.items():
        if isinstance(value, Spread):
            family.add_metric(labels, list(_cumulative(value)), value.total)
        else:
            family.add_metric(labels, value)
    assert isinstance(family, Family)
    return family


def _cumulative(spread: Spread) -> Iterator[tuple[str, float]]:
    """Prometheus' buckets: each holds those of the buckets before."""
    total = 0
    for bound, count in zip((*map(str, map(float, spread.bounds)), "+Inf"), spread.counts, strict=True):
        total += count
        yield bound, total
