"""How metrics are told, and that the documentation knows all of them."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cellyard_controller.api.counts import Calls
from cellyard_controller.errors import QuotaExceeded
from cellyard_controller.executions import counts as execution_counts
from cellyard_controller.executions.model import End, Execution, State
from cellyard_controller.ids import CellId, ExecutionId, SessionId, TenantName
from cellyard_controller.runtimes import CapabilityFact
from cellyard_controller.sandboxes import counts as sandbox_counts
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.plans import Kind as PoolKind
from cellyard_controller.sandboxes.pool import Demand, PoolView
from cellyard_controller.tallies import Durations, Tally
from cellyard_controller.web.metrics import METRICS, Kind, Sources, registry

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"
IDS = {"notebook", "notebook_id", "sandbox", "sandbox_id", "execution_id", "cell_id", "container_id", "session"}


def sandbox(template: str, state: SandboxState, *, up: bool = True) -> Any:
    notebook = SimpleNamespace(tenant="alice") if state is SandboxState.CLAIMED else None
    link = SimpleNamespace(up=up)
    return SimpleNamespace(template=SimpleNamespace(name=template), state=state, link=link, notebook=notebook)


POOL = PoolView(
    PoolKind("docker", "default", "none", "python", "uv:prewarmed"),
    Demand(hits=3),
    target=2,
    warm=1,
    making=1,
    claimed=4,
    claim_rate=0.5,
    oldest_s=7.5,
)


@pytest.fixture
def sources() -> Sources:
    """A state of things, with as much of each part as metrics read."""
    facts = [
        CapabilityFact("timeout", True, "shown", 0.0),
        CapabilityFact("network_isolation", False, 'it has a "route"\nout', 0.0),
    ]
    there = [sandbox("default", SandboxState.CLAIMED), sandbox("removed", SandboxState.CREATING, up=False)]
    found = SimpleNamespace(
        supervisor=SimpleNamespace(
            sandboxes=lambda: there,
            counts=sandbox_counts.Counts(),
            catalogue=SimpleNamespace(templates=("default",)),
            waiting=lambda: ["capacity", "sandboxes", "capacity"],
            pools=lambda: [POOL],
            environments=SimpleNamespace(outcomes=Tally()),
        ),
        rooms=SimpleNamespace(
            loaded=3, waiting=2, sessions=1, waiting_by_tenant={"alice": 2}, counts=execution_counts.Counts()
        ),
        calls=Calls(),
        tenants=False,
        cluster=SimpleNamespace(lease_left_s=7.5, states=lambda: Counter(serving=2, failing=1)),
        store=SimpleNamespace(write_seconds=Durations(1, 2), commit_seconds=Durations(1), failures=Tally()),
        standing=SimpleNamespace(
            ready={"docker": True},
            facts={("docker", "default", "none"): facts},
            notebooks={("project", "red"): 2},
            sandboxes={("project", "red"): 1},
            bytes_kept={("database",): 10},
            bytes_free={(): 20},
        ),
    )
    return cast(Sources, found)


def told(sources: Sources) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry(sources)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(sources: Sources, name: str, **labels: str) -> float | None:
    return told(sources).get((name, frozenset(labels.items())))


def test_the_state_of_things_is_read_when_somebody_asks(sources: Sources) -> None:
    assert value(sources, "cellyard_sandboxes", template="default", state="claimed") == 1
    assert value(sources, "cellyard_sandboxes", template="default", state="warm") == 0
    assert value(sources, "cellyard_sandboxes", template="removed", state="creating") == 1
    assert value(sources, "cellyard_sandboxes_linked") == 1
    assert value(sources, "cellyard_claims_waiting", reason="capacity") == 2
    assert value(sources, "cellyard_claims_waiting", reason="memory") == 0
    assert value(sources, "cellyard_pool_target", template="default", kernel="python", env_source="uv:prewarmed") == 2
    assert (
        value(sources, "cellyard_pool_oldest_seconds", template="default", kernel="python", env_source="uv:prewarmed")
        == 7.5
    )
    assert value(sources, "cellyard_rooms_loaded") == 3
    assert value(sources, "cellyard_executions_queued") == 2
    assert value(sources, "cellyard_runtime_ready", runtime="docker") == 1


def test_capabilities_are_told_as_they_were_probed_and_their_evidence_is_not(sources: Sources) -> None:
    where = {"runtime": "docker", "template": "default", "network": "none"}
    assert value(sources, "cellyard_capability_granted", capability="timeout", **where) == 1
    assert value(sources, "cellyard_capability_granted", capability="network_isolation", **where) == 0
    assert "route" not in generate_latest(registry(sources)).decode()


def test_counts_have_a_zero_before_anything_happened_and_the_counts_afterwards(sources: Sources) -> None:
    assert value(sources, "cellyard_store_failures_total") == 0
    counts = cast(Any, sources).supervisor.counts
    counts.begun("default")
    counts.ended("default", EndReason.OOM)
    cast(Any, sources).store.failures.add(by=3)
    assert value(sources, "cellyard_sandbox_starts_total", template="default") == 1
    assert value(sources, "cellyard_sandbox_ends_total", template="default", reason="oom") == 1
    assert value(sources, "cellyard_store_failures_total") == 3


def test_a_histograms_buckets_hold_those_before_them(sources: Sources) -> None:
    for seconds in (0.5, 1.5, 1.5, 7.0):
        sources.store.write_seconds.observe(seconds)
    name = "cellyard_store_write_seconds"
    assert [value(sources, f"{name}_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [1, 3, 4]
    assert (value(sources, f"{name}_count"), value(sources, f"{name}_sum")) == (4, 10.5)


def test_tenants_are_named_only_where_the_operator_wants_it_and_at_most_a_hundred_of_them(sources: Sources) -> None:
    tally = sources.rooms.counts.by_tenant
    for number in range(150):
        tally.add(f"tenant-{number}", "succeeded")
    tally.add("alice", "failed")
    assert "alice" not in generate_latest(registry(sources)).decode()
    cast(Any, sources).tenants = True
    name = "cellyard_tenant_executions_total"
    assert value(sources, name, tenant="tenant-99", end="succeeded") == 1
    assert value(sources, name, tenant="tenant-100", end="succeeded") is None
    assert value(sources, name, tenant="(others)", end="succeeded") == 50
    assert value(sources, name, tenant="(others)", end="failed") == 1
    assert value(sources, "cellyard_tenant_sandboxes", tenant="alice") == 1
    assert value(sources, "cellyard_tenant_queued", tenant="alice") == 2


def test_what_an_agent_says_of_an_end_makes_no_series_of_its_own(sources: Sources) -> None:
    lost = Execution(ExecutionId("e"), CellId("c"), SessionId("s"), "", State.ENDED, 0.0, 0.0, end=End.LOST)
    for reason in ("oom", *(f"exit code {code}" for code in range(100))):
        sources.rooms.counts.ended(replace(lost, end_reason=reason), TenantName("alice"))
    name = "cellyard_executions_cut_short_total"
    assert value(sources, name, end="lost", reason="oom") == 1
    assert value(sources, name, end="lost", reason="other") == 100
    assert value(sources, "cellyard_limits_hit_total", limit="memory") == 1


def test_calls_are_counted_by_what_came_of_them(sources: Sources) -> None:
    for refused in (QuotaExceeded("used up", quota="queued"), QuotaExceeded("too many")):
        sources.calls.refused(refused)
        sources.calls.outcomes.add("Executions.Execute", "quota_exceeded")
    sources.calls.answered("Kernels.Get", time.monotonic())
    name = "cellyard_calls_total"
    assert value(sources, name, method="Executions.Execute", outcome="quota_exceeded") == 2
    assert value(sources, "cellyard_quota_refusals_total", quota="queued") == 1
    assert value(sources, "cellyard_quota_refusals_total", quota="calls") == 1
    assert value(sources, "cellyard_call_seconds_count", method="Kernels.Get") == 1


def test_a_name_with_every_character_stays_one_label(sources: Sources) -> None:
    strange = 'a"b\\c\nd{}, é'
    cast(Any, sources).supervisor.counts.begun(strange)
    assert value(sources, "cellyard_sandbox_starts_total", template=strange) == 1


def test_two_controllers_in_one_process_tell_their_own(sources: Sources) -> None:
    first, second = registry(sources), registry(sources)
    assert generate_latest(first)
    assert generate_latest(second)


def test_the_process_is_told_of_too(sources: Sources) -> None:
    assert value(sources, "process_resident_memory_bytes")
    assert value(sources, "process_open_fds")


@pytest.mark.parametrize("metric", METRICS, ids=[metric.name for metric in METRICS])
def test_names_and_labels_are_as_the_field_has_them(metric: Any) -> None:
    assert re.fullmatch(r"cellyard_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
    assert metric.name.endswith("_seconds") or metric.kind is not Kind.HISTOGRAM
    assert not IDS & set(metric.labels), "a series for each of what users make has no bound"
    assert metric.says.endswith(".")


def test_the_documentation_has_exactly_these_metrics() -> None:
    rows = re.findall(r"^\| `(cellyard_\w+)` \|([^|]*)\| (.*) \|$", OPERATIONS.read_text(), re.MULTILINE)
    documented = {name: (tuple(re.findall(r"`(\w+)`", labels)), says) for name, labels, says in rows}
    assert documented == {metric.name: (metric.labels, metric.says) for metric in METRICS}
    assert len(rows) == len(METRICS)
