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

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from cellyard_controller import __version__
from cellyard_controller.notebooks.rooms import Rooms
from cellyard_controller.sandboxes.lifecycle import SandboxState
from cellyard_controller.sandboxes.pool import PoolView
from cellyard_controller.sandboxes.supervisor import Supervisor
from cellyard_controller.store import Store
from cellyard_controller.tallies import Labels, Spread, Tally
from cellyard_controller.web.standing import Standing


@dataclass(frozen=True, slots=True)
class Sources:
    """What metrics are read from."""

    supervisor: Supervisor
    rooms: Rooms
    store: Store
    standing: Standing


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
    read: Callable[[Sources], Mapping[Labels, float] | Spread]


def gauge(name: str, says: str, read: Callable[[Sources], Mapping[Labels, float]], *labels: str) -> Metric:
    """Something that goes up and down."""
    return Metric(Kind.GAUGE, name, says, labels, read)


def counter(name: str, says: str, read: Callable[[Sources], Tally], *labels: str) -> Metric:
    """Something that only grows, from the controller's start."""

    def counts(sources: Sources) -> Mapping[Labels, float]:
        found = read(sources).read()
        return found if labels else {(): found.get((), 0)}  # without labels there is a zero from the beginning

    return Metric(Kind.COUNTER, name, says, labels, counts)


def histogram(name: str, says: str, read: Callable[[Sources], Spread]) -> Metric:
    """How long something took."""
    return Metric(Kind.HISTOGRAM, name, says, (), read)


def _sandboxes(sources: Sources) -> Mapping[Labels, float]:
    found = Counter((each.template.name, each.state.value) for each in sources.supervisor.sandboxes())
    states = [state.value for state in SandboxState if state is not SandboxState.ENDED]
    templates = {*sources.supervisor.catalogue.templates, *(template for template, _ in found)}
    return {(template, state): found[template, state] for template in sorted(templates) for state in states}


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
        lambda sources: sources.supervisor.counts.start_seconds.read(),
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
    histogram(
        "cellyard_execution_seconds",
        "From an execution's start in the kernel to its end.",
        lambda sources: sources.rooms.counts.seconds.read(),
    ),
    histogram(
        "cellyard_execution_wait_seconds",
        "From an execution's acceptance to its start in the kernel.",
        lambda sources: sources.rooms.counts.wait_seconds.read(),
    ),
    histogram(
        "cellyard_store_write_seconds",
        "From asking for something to be stored until it is on disk, or refused.",
        lambda sources: sources.store.write_seconds.read(),
    ),
    histogram(
        "cellyard_store_commit_seconds",
        "Transactions on disk, however many writes shared one.",
        lambda sources: sources.store.commit_seconds.read(),
    ),
    counter(
        "cellyard_store_failures_total",
        "Writes that the database did not take.",
        lambda sources: sources.store.failures,
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


def _family(metric: Metric, found: Mapping[Labels, float] | Spread) -> Family:
    if isinstance(found, Spread):
        histogram_family = HistogramMetricFamily(metric.name, metric.says)
        histogram_family.add_metric((), list(_cumulative(found)), found.total)
        return histogram_family
    family: GaugeMetricFamily | CounterMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.says, labels=metric.labels)
    else:
        family = GaugeMetricFamily(metric.name, metric.says, labels=metric.labels)
    for labels, value in found.items():
        family.add_metric(labels, value)
    return family


def _cumulative(spread: Spread) -> Iterator[tuple[str, float]]:
    """Prometheus' buckets: each holds those of the buckets before."""
    total = 0
    for bound, count in zip((*map(str, map(float, spread.bounds)), "+Inf"), spread.counts, strict=True):
        total += count
        yield bound, total
