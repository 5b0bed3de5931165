"""What the shell decides without a kernel: whether code goes on, and what of it is kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cellyard.cli.shell import commands, completeness, history
from cellyard.results import ExecutionResult, Output


@pytest.mark.parametrize(
    "code",
    [
        "1 + 1",
        "x = 1\ny = 2",
        "for x in y:\n    pass\n",
        "await f()",
        "!ls -l",
        "%time x",
        "x?",
        "x = ",
        ")",
        "%%bash\necho hi\n",
        "def f(): pass",
        "'a\\\nb'",
    ],
)
def test_what_is_run_at_enter(code: str) -> None:
    assert completeness.complete(code, "python")


@pytest.mark.parametrize(
    "code",
    ["for x in y:", "for x in y:\n    pass", "f(1,", "'''text", "%%bash", "%%bash\necho hi", "if x:\n    pass\nelse:"],
)
def test_what_goes_on_in_another_line(code: str) -> None:
    assert not completeness.complete(code, "python")


@pytest.mark.parametrize(
    ("code", "complete"),
    [
        ("let x = 1", True),
        ("function f() {", False),
        ("function f() {\n}", True),
        ("f('(')", True),
        ("// {", True),
        ("`text", False),
        ("`a ${1}`", True),
    ],
)
def test_typescript_goes_on_while_brackets_are_open(code: str, complete: bool) -> None:
    assert completeness.complete(code, "deno") is complete


def test_a_line_in_a_block_begins_where_the_block_does() -> None:
    assert completeness.indentation("for x in y:", "python") == "    "
    assert completeness.indentation("for x in y:\n    f(x)", "python") == "    "
    assert completeness.indentation("x = 1", "python") == ""


def test_history_is_the_users_alone_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "state" / "shell_history"
    path.parent.mkdir()
    path.touch(0o644)
    kept = history.BoundedHistory(path)
    for number in range(2 * history.KEPT + 1):
        kept.store_string(f"line {number}\nsecond")
    kept.store_string("x" * (history.LONGEST + 1))
    again = list(history.BoundedHistory(path).load_history_strings())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert again[0] == f"line {2 * history.KEPT}\nsecond"
    assert len(list(history.BoundedHistory(path).load_history_strings())) == history.KEPT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["shell_history"]


def test_history_is_not_written_through_somebodys_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="link"):
        history.BoundedHistory(tmp_path / "link")


def test_what_was_shown_is_saved_by_the_files_ending(tmp_path: Path) -> None:
    picture = Output("display_data", data={"image/png": b"\x89PNG", "text/plain": "<Figure>"})
    result = ExecutionResult("cell-1", "exec-1", outputs=[picture])
    assert "4 bytes" in commands.save(result, str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == b"\x89PNG"
    assert "exists already" in commands.save(result, str(tmp_path / "a.png"))
    assert "nothing of it is image/svg+xml" in commands.save(result, str(tmp_path / "a.svg"))
    assert "one of" in commands.save(result, str(tmp_path / "a"))
    assert "cannot be written" in commands.save(result, str(tmp_path / "no" / "a.txt"))
