"""Warnings of limits: when they are given, and when not. And what a control group says, in either version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.agent.fakes import VirtualClock

from cellyard_proto.v1 import outputs_pb2
from cellyard_sandbox import cgroups
from cellyard_sandbox.cgroups import ControlGroup, Sample, Use
from cellyard_sandbox.pressure import Pressure

GIB = 1024**3


class Group(ControlGroup):
    """A control group whose state a test sets."""

    def __init__(self) -> None:
        self.now = Sample(memory=Use(0, GIB), processes=64, processors=0.5)
        self.looks = 0

    def sample(self, folders: Mapping[str, int]) -> Sample:
        self.looks += 1
        return self.now


class Stage:
    def __init__(self) -> None:
        self.clock, self.group = VirtualClock(), Group()
        self.warned: list[outputs_pb2.Warning] = []
        self.pressure = Pressure(self.clock, self.group, {}, self.warned.append)

    def set(self, **state: object) -> None:
        self.group.now = replace(self.group.now, **state)

    @property
    def kinds(self) -> list[str]:
        return [warning.kind for warning in self.warned]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nothing_is_looked_at_while_nothing_runs_nor_for_a_short_cell(stage: Stage) -> None:
    looks = stage.group.looks
    stage.clock.pass_s(100)
    stage.pressure.run_started()
    stage.clock.pass_s(0.01)
    stage.pressure.run_ended()
    stage.clock.pass_s(100)
    assert stage.group.looks == looks


def test_memory_is_warned_of_at_nine_tenths_and_once_a_minute(stage: Stage) -> None:
    stage.pressure.run_started()
    stage.set(memory=Use(int(0.89 * GIB), GIB))
    stage.clock.pass_s(10)
    assert stage.kinds == []
    stage.set(memory=Use(int(0.95 * GIB), GIB))
    stage.clock.pass_s(59)
    assert stage.kinds == ["memory"]
    assert stage.warned[0].message.startswith("972.8 MiB of 1.0 GiB of memory are used")
    stage.clock.pass_s(3)
    assert stage.kinds == ["memory", "memory"]


def test_what_was_counted_before_is_no_news(stage: Stage) -> None:
    stage.set(oom_kills=3, refused_processes=5)
    stage.pressure.run_started()
    stage.clock.pass_s(1)
    assert sorted(stage.kinds) == ["oom", "pids"]
    stage.warned.clear()
    stage.clock.pass_s(200)
    assert stage.kinds == []


def test_the_last_look_is_at_the_end(stage: Stage) -> None:
    stage.pressure.run_started()
    stage.clock.pass_s(0.3)
    stage.set(space={"/tmp": Use(100, 100)}, files={"/tmp": Use(10, 10)})
    stage.pressure.run_ended()
    assert stage.kinds == ["disk", "inodes"]
    assert stage.warned[1].details["folder"] == "/tmp"


def test_processors_are_spoken_of_only_where_the_limit_is_felt(stage: Stage) -> None:
    stage.pressure.run_started()
    stage.set(periods=100, held_back=20)
    stage.clock.pass_s(2)
    assert stage.kinds == []
    stage.set(periods=200, held_back=120)
    stage.clock.pass_s(2)
    assert stage.kinds == ["cpu"]
    assert stage.warned[0].details == {"limit": "0.5", "periods": "200", "held_back": "120"}


VERSION_1 = {
    "memory/memory.usage_in_bytes": "1000",
    "memory/memory.limit_in_bytes": "2000",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    "pids/pids.max": "64",
    "pids/pids.events": "max 7",
    "cpu/cpu.cfs_quota_us": "50000",
    "cpu/cpu.cfs_period_us": "100000",
    "cpu/cpu.stat": "nr_periods 43\nnr_throttled 38\nthrottled_time 2004749782",
}
VERSION_2 = {
    "memory.current": "1000",
    "memory.max": "2000",
    "memory.stat": "anon 5\ninactive_file 100",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 2",
    "pids.max": "64",
    "pids.events": "max 7",
    "cpu.max": "50000 100000",
    "cpu.stat": "usage_usec 1\nnr_periods 43\nnr_throttled 38\nthrottled_usec 2004749",
}


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2], ids=["v1", "v2"])
def test_a_control_group_is_read_in_both_versions(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert ControlGroup(tmp_path).sample({}) == Sample(
        memory=Use(900, 2000),
        oom_kills=2,
        processes=64,
        refused_processes=7,
        processors=0.5,
        periods=43,
        held_back=38,
    )


@pytest.mark.parametrize(
    "files",
    [{}, {"memory.max": "max", "memory.current": "5", "pids.max": "max", "cpu.max": "max 100000"}, {"pids.max": "?"}],
    ids=["none", "unlimited", "garbage"],
)
def test_no_limit_is_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sample = ControlGroup(tmp_path).sample({})
    assert (sample.memory.limit, sample.memory.share, sample.processes, sample.processors) == (0, 0.0, 0, 0.0)
    assert cgroups._limit("9223372036854771712") == 0
