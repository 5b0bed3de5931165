"""What becomes of each sandbox and each instance when the two are compared: decided without a runtime."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.ids import NotebookKey, SandboxId
from cellyard_controller.runtimes import Instance, Template
from cellyard_controller.sandboxes.lifecycle import EndReason, SandboxState
from cellyard_controller.sandboxes.link_messages import KernelReport
from cellyard_controller.sandboxes.reconciling import NOT_OUTLIVED, compare, plan, why_not_warm
from cellyard_controller.sandboxes.records import SandboxRecord

IDS = st.integers(0, 7)
LIVING = (SandboxState.CREATING, SandboxState.WARM, SandboxState.CLAIMED)


def record(number: int, state: SandboxState, *, runtime: str = "docker", told: bool = True) -> SandboxRecord:
    return SandboxRecord(
        sandbox_id=SandboxId(f"sb-{number}"),
        runtime=runtime,
        template="default",
        network="none",
        instance_id=f"c-{number}" if told else "",
        uid=200_000 + number,
        state=state,
        notebook=NotebookKey(number) if state is SandboxState.CLAIMED else None,
        kernel_type="python",
        env_source="",
        capabilities=(),
        created_at=float(number),
        claimed_at=0.0,
        generation=1,
        committed_number=0,
        end_reason="",
        asked=Template("default", "", memory_bytes=1 << 30),
    )


def instance(number: int, *, running: bool = True, oom: bool = False) -> Instance:
    return Instance(f"c-{number}", f"sb-{number}", "me", running, None if running else 137, oom)


RECORDS = st.dictionaries(IDS, st.tuples(st.sampled_from(LIVING), st.booleans())).map(
    lambda found: [record(number, state, told=told) for number, (state, told) in found.items()]
)
LISTED = st.dictionaries(IDS, st.booleans()).map(
    lambda found: [instance(number, running=running) for number, running in found.items()]
)


@given(RECORDS, LISTED)
def test_each_record_and_each_instance_has_exactly_one_fate(
    records: list[SandboxRecord], listed: list[Instance]
) -> None:
    made = plan(records, {"docker": listed})
    adopted = {each.instance_id for each in [*made.adopt, *made.take_up]}
    removed = [instance_id for _, instance_id in made.remove]
    assert adopted | set(removed) == {each.instance_id for each in listed}
    assert not adopted & set(removed)
    assert len(removed) == len(set(removed))
    fates = [*made.adopt, *made.take_up, *(each for each, _, _ in made.gone)]
    assert sorted(each.sandbox_id for each in fates) == sorted(each.sandbox_id for each in records)
    assert all(each.state is SandboxState.CLAIMED for each in made.adopt)
    assert all(each.state is SandboxState.WARM for each in made.take_up)
    running = {each.instance_id for each in listed if each.running}
    kept = {each.instance_id for each in records if each.state is not SandboxState.CREATING}
    assert adopted == running & kept


@given(RECORDS)
def test_of_a_runtime_that_does_not_answer_nothing_is_removed_and_the_claimed_and_warm_are_kept(
    records: list[SandboxRecord],
) -> None:
    made = plan(records, {"docker": None})
    assert not made.remove
    for state, kept in ((SandboxState.CLAIMED, made.adopt), (SandboxState.WARM, made.take_up)):
        expected = {each.sandbox_id for each in records if each.state is state and each.instance_id}
        assert {each.sandbox_id for each in kept} == expected


# A claim, as the controller that serves it and may be killed after any step does: what each leaves where.
CLAIM = ("file", "claim", "commit", "dispatch")


@given(
    steps=st.integers(0, len(CLAIM)),
    first=st.sampled_from((0, 1)),
    heard=st.integers(0, len(CLAIM)),
    state=st.sampled_from(("ready", "dead")),
    generation=st.integers(1, 2),
)
def test_whenever_a_controller_is_killed_in_a_claim_its_sandbox_is_nobody_elses(
    steps: int, first: int, heard: int, state: str, generation: int
) -> None:
    """`first`: whether the claim begins with files; `heard`: how much of what was sent the agent ever heard."""
    done = CLAIM[first : first + steps]
    reached = [step for step in done if step != "commit"][:heard]
    committed = "commit" in done
    stored = record(1, SandboxState.CLAIMED if committed else SandboxState.WARM)
    made = plan([stored], {"docker": [instance(1)]})
    if committed:
        assert (made.adopt, made.take_up) == ([stored], []), "it is that notebook's"
        return
    assert (made.adopt, made.take_up) == ([], [stored])
    given_away = not why_not_warm(not reached, KernelReport(state, generation, ""), stored.generation)
    assert given_away == (not reached and state == "ready" and generation == stored.generation)


def test_a_warm_one_whose_template_is_not_noted_is_not_kept() -> None:
    made = plan([replace(record(1, SandboxState.WARM), asked=None)], {"docker": [instance(1)]})
    assert (made.take_up, made.remove) == ([], [("docker", "c-1")])


def test_ends_have_their_typed_reason() -> None:
    records = [record(number, SandboxState.CLAIMED) for number in range(4)]
    listed = [instance(0), instance(1, running=False), instance(2, running=False, oom=True)]
    made = plan(records, {"docker": listed})
    assert [each.sandbox_id for each in made.adopt] == ["sb-0"]
    assert [(each.sandbox_id, reason) for each, reason, _ in made.gone] == [
        ("sb-1", EndReason.EXIT),
        ("sb-2", EndReason.OOM),
        ("sb-3", EndReason.RUNTIME_LOST),
    ]
    assert [message for _, _, message in made.gone] == [
        "the sandbox ended with exit code 137",
        "oom: the sandbox used up its memory limit of 1.0 GiB",
        NOT_OUTLIVED,
    ]


def test_an_instance_with_the_id_of_another_runtimes_sandbox_is_not_it() -> None:
    made = plan([record(1, SandboxState.CLAIMED, runtime="process")], {"docker": [instance(1)], "process": []})
    assert not made.adopt
    assert made.remove == [("docker", "c-1")]


def test_a_runtime_that_is_not_served_any_more_has_lost_its_sandboxes() -> None:
    made = plan([record(1, SandboxState.CLAIMED, runtime="process")], {"docker": None})
    assert [reason for _, reason, _ in made.gone] == [EndReason.RUNTIME_LOST]


def sandbox(number: int, *, told: bool = True) -> Any:
    return SimpleNamespace(sandbox_id=f"sb-{number}", instance_id=f"c-{number}" if told else "")


def test_a_comparison_tells_what_ended_and_what_nobody_knows() -> None:
    mine = [sandbox(1), sandbox(2), sandbox(3), sandbox(4, told=False)]
    listed = [instance(1), instance(2, running=False), instance(4), instance(5), instance(6, running=False)]
    ended, unknown = compare(mine, listed)
    assert [each.sandbox_id for each in ended] == ["sb-2", "sb-3"]
    assert unknown == ["c-5", "c-6"], "the one whose id is not told yet is known by its sandbox's"


def test_a_second_instance_that_calls_itself_like_a_sandbox_that_has_one_is_nobodys() -> None:
    forged = Instance("c-9", "sb-1", "me", running=True)
    ended, unknown = compare([sandbox(1)], [instance(1), forged])
    assert (ended, unknown) == ([], ["c-9"])
