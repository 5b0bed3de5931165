"""What passes of one execution's output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox.limits import Budget, OutputLimits
from cellyard_sandbox.messages import Chunk, Item, Shown, comm, shown


def update(display_id: str, text: str) -> Shown:
    data = {"text/plain": outputs_pb2.MimeValue(text=text)}
    return shown(link_pb2.Event(display_updated=outputs_pb2.DisplayUpdated(display_id=display_id, data=data)))


def display(text: str) -> Shown:
    data = {"text/plain": outputs_pb2.MimeValue(text=text)}
    return shown(link_pb2.Event(output=outputs_pb2.Output(display_data=outputs_pb2.DisplayData(data=data))))


def error(evalue: str = "bad") -> Shown:
    failed = outputs_pb2.ErrorOutput(ename="ValueError", evalue=evalue, traceback=["line"] * 500)
    return shown(link_pb2.Event(output=outputs_pb2.Output(error=failed)))


def clear() -> Shown:
    return shown(link_pb2.Event(clear_output=outputs_pb2.ClearOutput()))


def text_of(items: list[Item], stream: str = "stdout") -> str:
    return "".join(item.text for item in items if isinstance(item, Chunk) and item.name == stream)


def kinds(items: list[Item]) -> list[str]:
    return ["text" if isinstance(item, Chunk) else item.event.WhichOneof("event") or "" for item in items]


def test_text_is_cut_at_the_limit_and_the_notice_stands_on_its_stream() -> None:
    budget = Budget(OutputLimits(max_bytes=10))
    assert budget.admit(Chunk("stderr", "12345")) == [Chunk("stderr", "12345")]
    items = budget.admit(Chunk("stderr", "6789012"))
    assert text_of(items, "stderr") == "67890\n[cellyard: output truncated after 10 bytes]\n"
    assert kinds(items) == ["text", "text", "truncated"]
    assert items[-1].event.truncated.after_bytes == 10  # type: ignore[union-attr]
    assert budget.admit(Chunk("stderr", "more")) == []
    assert budget.saturated


def test_a_line_that_had_ended_needs_no_newline_before_the_notice() -> None:
    budget = Budget(OutputLimits(max_bytes=5))
    budget.admit(Chunk("stdout", "1234\n"))
    assert text_of(budget.admit(Chunk("stdout", "x"))) == "[cellyard: output truncated after 5 bytes]\n"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 50))
def test_text_is_cut_between_characters(text: str, limit: int) -> None:
    items = Budget(OutputLimits(max_bytes=limit)).admit(Chunk("stdout", text))
    kept = text_of(items).partition("[cellyard")[0]
    if len(text.encode()) <= limit:
        assert kept == text
    else:
        kept = kept if text.startswith(kept) and len(kept.encode()) <= limit else kept.removesuffix("\n")
        assert text.startswith(kept)
        assert limit - 4 < len(kept.encode()) <= limit


def test_a_display_that_does_not_fit_is_discarded_whole() -> None:
    budget = Budget(OutputLimits(max_bytes=1000))
    items = budget.admit(display("x" * 2000))
    assert kinds(items) == ["text", "truncated"]
    assert text_of(items) == "[cellyard: output truncated after 0 bytes]\n"


def test_a_stream_in_many_chunks_is_one_output() -> None:
    budget = Budget(OutputLimits(max_count=2))
    for _ in range(100):
        assert len(budget.admit(Chunk("stdout", "x"))) == 1
    assert len(budget.admit(Chunk("stderr", "x"))) == 1
    assert kinds(budget.admit(Chunk("stdout", "x"))) == ["text", "truncated"]


def test_the_last_state_of_updated_displays_survives() -> None:
    budget = Budget(OutputLimits(max_count=1))
    budget.admit(display("first"))
    for number in range(1000):
        budget.admit(update(f"d{number % 3}", str(number)))
    states = {
        item.event.display_updated.display_id: item.event.display_updated.data["text/plain"].text
        for item in budget.close()
        if isinstance(item, Shown)
    }
    assert states == {"d0": "999", "d1": "997", "d2": "998"}
    assert budget.close() == []


def test_what_is_kept_of_displays_is_bounded() -> None:
    budget = Budget(OutputLimits(max_count=0))
    for number in range(1000):
        budget.admit(update(f"d{number}", "x" * 100_000))
    kept = budget.close()
    assert 0 < len(kept) <= 100
    assert sum(item.size for item in kept if isinstance(item, Shown)) <= 4 * 1024 * 1024
    assert kept[-1].event.display_updated.display_id == "d999"  # type: ignore[union-attr]


def test_how_a_cell_failed_passes_once_and_shortened() -> None:
    budget = Budget(OutputLimits(max_bytes=10))
    budget.admit(Chunk("stdout", "x" * 20))
    items = budget.admit(error("e" * 1_000_000))
    assert kinds(items) == ["output"]
    assert items[0].size < 400_000  # type: ignore[union-attr]
    assert items[0].event.output.error.ename == "ValueError"  # type: ignore[union-attr]
    assert budget.admit(error()) == []


def test_an_error_too_large_for_the_limit_comes_after_its_notice() -> None:
    items = Budget(OutputLimits(max_bytes=100)).admit(error())
    assert kinds(items) == ["text", "truncated", "output"]


def test_clearing_passes_but_not_twice_in_a_row() -> None:
    budget = Budget(OutputLimits(max_count=3))
    assert len(budget.admit(clear())) == 1
    assert budget.admit(clear()) == []
    budget.admit(display("x"))
    assert len(budget.admit(clear())) == 1
    assert not budget.saturated


def test_comms_count_with_their_bytes_and_break_no_text() -> None:
    budget = Budget(OutputLimits(max_bytes=100, max_count=1))
    message = comm(outputs_pb2.Comm(comm_id="c", buffers=[b"x" * 20]))
    assert budget.admit(Chunk("stdout", "1")) == [Chunk("stdout", "1")]
    assert budget.admit(message) == [message]
    assert budget.admit(Chunk("stdout", "2")) == [Chunk("stdout", "2")], "still the same output"
    while not budget.saturated:
        last = budget.admit(message)
    assert kinds(last) == ["text", "truncated"]
    assert budget.admit(message) == []
