"""What a node says of itself: there and back, and whatever else may stand in its row."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cellyard_controller.cluster.nodes import NodeState
from cellyard_controller.cluster.reports import MAX_CHARACTERS, NodeReport, TenantUse, describe, read
from cellyard_controller.ids import SandboxId, TenantName
from cellyard_controller.sandboxes.plans import Bounds, Kind, Known, Need, Outline, Snapshot, Stage, Waiting
from cellyard_controller.sandboxes.scheduler import plan

PYTHON = Kind("docker", "default", "none", "python", "uv:prewarmed")
DENO = replace(PYTHON, kernel_type="deno", env_source="deno")
ANNE, BERT = TenantName("anne"), TenantName("bert")
REPORT = NodeReport(
    NodeState.SERVING,
    Bounds(20, 20_000, 8.0),
    Need(5, 5_000, 2.5),
    {PYTHON: 2, DENO: 1},
    frozenset({"e1", "e2"}),
    3,
    {ANNE: TenantUse(Need(1, 1_000, 0.5), 0), BERT: TenantUse(Need(1, 1_000, 0.5), 4)},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=10), inner, max_size=8),
    max_leaves=30,
)

CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def said(**parts: Any) -> str:
    return json.dumps(json.loads(REPORT.text()) | parts)


def test_a_report_is_read_as_it_was_written() -> None:
    assert read(REPORT.text(), "serving") == (REPORT, ())
    unbounded = replace(REPORT, capacity=Bounds(20, 20_000, None), state=NodeState.DRAINING)
    assert read(unbounded.text(), "draining") == (unbounded, ())
    failing = replace(REPORT, failing=True)
    assert read(failing.text(), "serving") == (failing, ())


def test_it_says_what_the_scheduler_sees() -> None:
    def known(name: str, stage: Stage, tenant: TenantName | None = None, **rest: Any) -> Known:
        return Known(SandboxId(name), PYTHON, Need(1, 1_000, 1.0), stage, 0.0, tenant, **rest)

    snapshot = Snapshot(
        0.0,
        Bounds(5, 5_000, 8.0),
        [Waiting(1, ANNE, PYTHON, Need(1, 1_000, 1.0)), Waiting(2, BERT, DENO, Need(1, 1_000, 1.0))],
        [
            known("a", Stage.HELD, ANNE),
            known("b", Stage.MAKING, BERT, claim=9),
            known("w", Stage.WARM),
            known("old", Stage.WARM, outdated=True),
            known("e", Stage.ENDING, BERT),
        ],
        quotas={ANNE: Bounds(sandboxes=1)},
    )
    report = describe(Outline(snapshot, plan(snapshot).waits), ["e1"], NodeState.SERVING)
    assert report.used == Need(5, 5_000, 5.0)
    assert report.warm == {PYTHON: 1}
    assert report.waiting == 1, "Bert's, for room"
    assert report.tenants == {ANNE: TenantUse(Need(1, 1_000, 1.0), 1), BERT: TenantUse(Need(1, 1_000, 1.0), 0)}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"capacity": [-1, 20_000, 8.0]}, "capacity: sandboxes: not between 0 and 100000"),
        ({"capacity": [10**30, 20_000, 8.0]}, "capacity: sandboxes: not between"),
        ({"capacity": [20, float("nan"), 8.0]}, "capacity: memory: no number"),
        ({"capacity": [20, float("inf"), 8.0]}, "capacity: memory: not between"),
        ({"capacity": [True, 20_000, 8.0]}, "capacity: sandboxes: no number"),
        ({"capacity": "all of it"}, "it says nothing of its capacity"),
    ],
)
def test_a_capacity_that_cannot_be_is_none_at_all(parts: dict[str, Any], why: str) -> None:
    report, faults = read(said(**parts), "serving")
    assert any(why in fault for fault in faults)
    assert not report.fits(Need(1, 1_000, 0.5))


def test_more_warm_ones_than_sandboxes_are_not_believed_and_the_rest_is() -> None:
    report, faults = read(said(warm=[[*REPORT.text().split(",")[:6], 400]]), "serving")
    assert faults == ("warm: more than there are sandboxes, so none of it is believed",)
    assert report == replace(REPORT, warm={})


def test_tenants_use_no_more_than_their_node_has_so_that_its_lie_takes_quotas_from_nobody_beyond_that() -> None:
    report, faults = read(said(tenants={"anne": [15, 1, 0, 0], "bert": [90_000, 1, 0, 0], "carl": 7}), "serving")
    assert report.tenants[ANNE].used.sandboxes == 15
    assert report.tenants[BERT].used.sandboxes == 5
    assert len(report.tenants) == 2
    assert len(faults) == 2


def test_an_unknown_state_is_away_and_what_is_no_report_has_no_room() -> None:
    report, faults = read(REPORT.text(), "splendid")
    assert report.state is NodeState.AWAY
    assert len(faults) == 1
    for text in (
        "",
        "[]",
        "null",
        "{",
        "[" * 1_000,
        "9" * 5_000,
        "x" * (MAX_CHARACTERS + 1),
        '{"capacity":[1e400,1,1]}',
    ):
        report, faults = read(text, "serving")
        assert faults
        assert not report.fits(Need(1))


@CALM
@given(st.dictionaries(st.sampled_from(["capacity", "used", "warm", "environments", "waiting", "tenants"]), JSON), JSON)
def test_whatever_stands_there_a_typed_report_within_bounds_is_read(parts: dict[str, Any], other: Any) -> None:
    for text in (said(**parts), json.dumps(other)):
        report, _ = read(text, "serving")
        assert 0 <= (report.capacity.sandboxes or 0) <= 100_000
        assert sum(use.used.sandboxes for use in report.tenants.values()) <= (report.capacity.sandboxes or 0)
        assert sum(report.warm.values()) <= report.used.sandboxes
        assert read(report.text(), "serving") == (report, ()), "what was believed is believed again"
