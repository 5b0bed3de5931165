"""What results look like to programs and to people."""

from __future__ import annotations

import base64
import dataclasses
import html
from datetime import UTC, datetime
from typing import Any

import pytest

from cellyard import Cell, End, ExecutionResult, Output

PNG = b"\x89PNG\r\n"


def stream(text: str, name: str = "stdout") -> Output:
    return Output("stream", name=name, text=text)


def shown(**data: Any) -> Output:
    return Output("display_data", data={mime.replace("_", "/"): value for mime, value in data.items()}, metadata={})


def result(*outputs: Output, **fields: Any) -> ExecutionResult:
    return ExecutionResult("cell-1", "exec-1", list(outputs), **fields)


class TestOutput:
    def test_data_has_the_types_that_fit(self) -> None:
        output = Output.from_nbformat(
            {
                "output_type": "display_data",
                "data": {
                    "image/png": base64.b64encode(PNG).decode() + "\n",
                    "audio/wav": "AAAA",
                    "video/mp4": "AAAA",
                    "application/pdf": "AAAA",
                    "image/svg+xml": "<svg/>",
                    "text/html": "<b>x</b>",
                    "text/latex": "$x$",
                    "application/json": {"a": [1]},
                    "application/vnd.vega.v5+json": {"b": 2},
                    "image/jpeg": "not base64!",
                },
                "metadata": {"image/png": {"width": 5}},
                "transient": {"display_id": "d"},
            }
        )
        assert output.data == {
            "image/png": PNG,
            "audio/wav": b"\0\0\0",
            "video/mp4": b"\0\0\0",
            "application/pdf": b"\0\0\0",
            "image/svg+xml": "<svg/>",
            "text/html": "<b>x</b>",
            "text/latex": "$x$",
            "application/json": {"a": [1]},
            "application/vnd.vega.v5+json": {"b": 2},
            "image/jpeg": "not base64!",
        }
        assert output.metadata == {"image/png": {"width": 5}}
        assert output.display_id == "d"

    @pytest.mark.parametrize(
        "saved",
        [
            {"output_type": "stream", "name": "stderr", "text": "x\n"},
            {"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b"]},
            {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": "x"}, "metadata": {}},
            {
                "output_type": "execute_result",
                "data": {"application/json": [1]},
                "metadata": {"m": 1},
                "execution_count": 3,
            },
        ],
    )
    def test_nbformat_round_trips(self, saved: dict[str, Any]) -> None:
        assert Output.from_nbformat(saved).to_nbformat() == saved

    def test_what_does_not_apply_is_none(self) -> None:
        output = stream("x")
        unset = {field.name for field in dataclasses.fields(output) if getattr(output, field.name) is None}
        assert unset == {"data", "metadata", "ename", "evalue", "traceback", "execution_count", "display_id"}

    def test_reprs_say_what_it_is(self) -> None:
        assert repr(stream("hello")) == "Output(stream, stdout: 'hello')"
        assert repr(Output("error", ename="E", evalue="v")) == "Output(error, E: v)"
        assert repr(shown(text_plain="x", image_png=PNG)) == "Output(display_data, ['image/png', 'text/plain'])"


class TestResult:
    def test_streams_are_joined_by_name(self) -> None:
        found = result(stream("a\n"), stream("e", "stderr"), stream("b  \n"))
        assert (found.stdout, found.stderr) == ("a\nb  \n", "e")

    def test_success_is_the_end(self) -> None:
        assert result(end=End.SUCCEEDED).success
        for end in set(End) - {End.SUCCEEDED} | {None}:
            assert not result(end=end).is_ok

    def test_status_says_more_than_the_end(self) -> None:
        assert result().status == "queued"
        assert result(started_at=datetime.now(UTC)).status == "running"
        assert result(end=End.LOST).status == "lost" == End.LOST

    def test_a_lost_kernel_is_an_error_of_its_own(self) -> None:
        error = result(end=End.LOST, end_reason="oom", end_message="memory beyond 1 GiB").error
        assert error is not None
        assert (error.ename, error.evalue) == ("KernelDied", "memory beyond 1 GiB")
        error = result(end=End.LOST, end_reason="exit code 1").error
        assert error is not None
        assert "exit code 1" in (error.evalue or "")

    def test_the_codes_own_error_comes_first(self) -> None:
        raised = Output("error", ename="E", evalue="v", traceback=[])
        assert result(raised, end=End.LOST).error is raised
        assert result(end=End.CANCELLED).error is None

    def test_duration_needs_a_start_and_an_end(self) -> None:
        first, second = datetime.fromtimestamp(10, UTC), datetime.fromtimestamp(12.5, UTC)
        assert result(started_at=first, ended_at=second).duration == 2.5
        assert result(started_at=first).duration is None
        assert result(ended_at=second).duration is None
        assert result(started_at=second, ended_at=first).duration == 0

    def test_text_is_what_a_person_reads(self) -> None:
        found = result(
            stream("printed"),
            shown(text_plain="<Figure>", image_png=PNG),
            Output("error", ename="E", evalue="v", traceback=["\x1b[31mE\x1b[0m: v"]),
        )
        assert found.text == "printed\n<Figure>\nE: v\n"
        assert result(shown(image_png=PNG)).text == "<image/png>\n"
        assert result(end=End.LOST, end_reason="oom").text.startswith("KernelDied")

    def test_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            result().end = End.FAILED  # type: ignore[misc]

    def test_repr_is_short(self) -> None:
        text = repr(result(stream("x" * 10_000), end=End.SUCCEEDED))
        assert text.startswith("ExecutionResult(cell=cell-1, status=succeeded, outputs=1, text='xxx")
        assert len(text) < 200


class TestHtml:
    HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'

    def test_text_and_errors_are_escaped(self) -> None:
        error = Output("error", ename="E", evalue="v", traceback=[self.HOSTILE])
        markup = result(stream(self.HOSTILE), shown(text_plain=self.HOSTILE), error)._repr_html_()
        assert "<script" not in markup
        assert markup.count(html.escape(self.HOSTILE)) == 3

    def test_html_is_shown_in_a_frame_without_rights(self) -> None:
        markup = shown(text_html=self.HOSTILE)._repr_html_()
        assert markup.startswith('<iframe sandbox="" srcdoc="')
        assert "<script" not in markup

    def test_svg_is_shown_as_an_image(self) -> None:
        markup = Output("display_data", data={"image/svg+xml": f"<svg>{self.HOSTILE}</svg>"})._repr_html_()
        assert markup.startswith('<img src="data:image/svg+xml;base64,')
        assert "script" not in markup

    def test_images_are_inline(self) -> None:
        assert base64.b64encode(PNG).decode() in shown(image_png=PNG, text_plain="x")._repr_html_()


def test_a_cells_repr_shows_where_it_starts() -> None:
    assert repr(Cell("cell-1", "code", "print(1)")) == "Cell(id=cell-1, type=code, source='print(1)')"
