"""Numbers without gaps, text without loss, whatever is staged, sealed, sent, lost and acknowledged in what order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox import outbox as module
from cellyard_sandbox.outbox import BATCH_BYTES, Outbox


def ended() -> link_pb2.Event:
    return link_pb2.Event(ended=link_pb2.ExecutionEnded(outcome=link_pb2.OUTCOME_OK))


def cleared() -> link_pb2.Event:
    return link_pb2.Event(clear_output=outputs_pb2.ClearOutput(wait=True))


def drain(outbox: Outbox) -> list[link_pb2.Event]:
    found: list[link_pb2.Event] = []
    while (batch := outbox.next_batch()) is not None:
        found.extend(batch.events)
    return found


def texts(events: list[link_pb2.Event]) -> dict[tuple[str, str], str]:
    joined: dict[tuple[str, str], str] = {}
    for event in events:
        if event.output.HasField("stream"):
            key = (event.execution_id, event.output.stream.name)
            joined[key] = joined.get(key, "") + event.output.stream.text
    return joined


STEP = st.one_of(
    st.tuples(
        st.just("text"),
        st.sampled_from("ab"),
        st.sampled_from(["stdout", "stderr"]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    ),
    st.tuples(st.just("event"), st.sampled_from("ab")),
    st.tuples(st.just("seal")),
    st.tuples(st.just("send"), st.integers(1, 3)),
    st.tuples(st.just("acknowledge"), st.integers(0, 10)),
    st.tuples(st.just("reconnect"), st.integers(0, 10)),
)


@given(st.lists(STEP, max_size=60))
@settings(deadline=None)
def test_a_controller_gets_every_event_once_and_in_order(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    outbox = Outbox()
    staged_texts: dict[tuple[str, str], str] = {}
    staged_events = 0
    committed: list[link_pb2.Event] = []  # the controller's
    received: list[link_pb2.Event] = []

    def receive(limit: int | None = None) -> None:
        while limit is None or limit > 0:
            batch = outbox.next_batch()
            if batch is None:
                return
            for event in batch.events:
                expected = len(committed) + len(received) + 1
                assert event.number == expected, "numbers are contiguous on each connection"
                received.append(event)
            limit = None if limit is None else limit - 1

    def commit(count: int) -> int:
        committed.extend(received[:count])
        del received[:count]
        return len(committed)

    for step in steps:
        match step:
            case ("text", execution, stream, text):
                outbox.stage_text(execution, stream, text)
                staged_texts[execution, stream] = staged_texts.get((execution, stream), "") + text
            case ("event", execution):
                outbox.stage(execution, cleared(), cleared().ByteSize())
                staged_events += 1
            case ("seal",):
                outbox.seal()
            case ("send", batches):
                receive(batches)
            case ("acknowledge", count):
                outbox.acknowledge(commit(count))
            case ("reconnect", count):
                number = commit(count)
                received.clear()
                outbox.rewind(number)
    outbox.seal()
    receive()
    outbox.acknowledge(commit(len(received)))
    assert [event.number for event in committed] == list(range(1, outbox.last_number + 1))
    assert texts(committed) == staged_texts
    assert sum(event.HasField("clear_output") for event in committed) == staged_events
    assert outbox.low
    assert not outbox.staged
    assert outbox._sealed_bytes == outbox._staged_bytes == 0


def test_neighbouring_text_of_one_stream_and_execution_is_one_event() -> None:
    outbox = Outbox()
    for text in ("a", "b", "c"):
        outbox.stage_text("e", "stdout", text)
    outbox.stage_text("e", "stderr", "d")
    outbox.stage_text("f", "stderr", "e")
    outbox.stage("f", cleared(), 4)
    outbox.stage_text("f", "stderr", "f")
    outbox.seal()
    assert [event.output.stream.text for event in drain(outbox)] == ["abc", "d", "e", "", "f"]


def test_text_that_was_sealed_is_joined_no_more() -> None:
    outbox = Outbox()
    outbox.stage_text("e", "stdout", "a")
    outbox.seal()
    outbox.stage_text("e", "stdout", "b")
    outbox.seal()
    assert [event.number for event in drain(outbox)] == [1, 2]


def test_long_text_is_several_events_that_fit_into_frames() -> None:
    outbox = Outbox()
    text = "ü" * (module.MAX_TEXT * 2 + 5)
    outbox.stage_text("e", "stdout", text)
    outbox.seal()
    batches = []
    while (batch := outbox.next_batch()) is not None:
        batches.append(batch)
    assert all(batch.ByteSize() < 4 * module.MAX_TEXT for batch in batches)
    assert texts([event for batch in batches for event in batch.events]) == {("e", "stdout"): text}


def test_batches_are_of_a_bounded_size() -> None:
    outbox = Outbox()
    for number in range(1000):
        outbox.stage_text(f"e{number}", "stdout", "x" * 500)
    outbox.seal()
    batches = []
    while (batch := outbox.next_batch()) is not None:
        batches.append(batch)
    assert sum(len(batch.events) for batch in batches) == 1000
    assert all(batch.ByteSize() < BATCH_BYTES * 1.1 for batch in batches)


def test_fullness_counts_what_is_not_acknowledged_wherever_it_is() -> None:
    outbox = Outbox()
    for _ in range(9):
        outbox.stage_text("e", "stdout", "x" * 1024 * 1024)
    assert outbox.full
    outbox.seal()
    drain(outbox)
    assert outbox.full, "sent is not acknowledged"
    outbox.acknowledge(4)
    assert not outbox.full
    assert not outbox.low, "between the marks nothing changes"
    outbox.acknowledge(6)
    assert outbox.low


def test_many_small_events_fill_it_too() -> None:
    outbox = Outbox()
    for _ in range(module.HIGH_COUNT + 1):
        outbox.stage("e", cleared(), 4)
    assert outbox.full


def test_an_acknowledgement_from_the_past_or_the_future_does_no_harm() -> None:
    outbox = Outbox()
    outbox.stage("e", ended(), 4)
    assert outbox.seal() == 1
    drain(outbox)
    outbox.acknowledge(5)
    outbox.acknowledge(0)
    outbox.rewind(9)
    assert drain(outbox) == []
    outbox.stage("f", ended(), 4)
    assert outbox.seal() == 2
