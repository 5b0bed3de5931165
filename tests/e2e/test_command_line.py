"""What commands show of a real controller: to people, to pipes, to programs; and what a shell completes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from cellyard.cli import arguments, manual
from tests.controller_process import Process
from tests.terminal import CTRL_C
from tests.terminal import cellyard as on_terminal

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

HOSTILE = "\x1b]0;title\x07\x1b[2J"


def run(*words: str, env: dict[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellyard.cli", *words]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=120, env={**os.environ, **env}, check=False
    )


@pytest.fixture(scope="module")
def yard(shared_controller: Process) -> Iterator[dict[str, str]]:
    """The environment of somebody who uses a controller with one notebook, `nb`."""
    with cellyard.Session("nb", endpoint=shared_controller.endpoint) as session:
        session.run(f"print('printed', {HOSTILE!r}); 1 + 1")
        session.run("raise ValueError('of the cell')")
        yield {"CELLYARD_ENDPOINT": shared_controller.endpoint, "XDG_STATE_HOME": str(shared_controller.folder / "s")}


def execution_ids(env: dict[str, str]) -> list[str]:
    return [line.split()[0] for line in run("executions", "list", "--notebook", "nb", env=env).stdout.splitlines()]


def test_everything_that_is_shown_comes_as_json_too(yard: dict[str, str]) -> None:
    failed, succeeded = execution_ids(yard)
    data = {
        words: json.loads(run(*words.split(), "--json", env=yard).stdout)
        for words in (
            "status",
            "notebooks list",
            "notebooks show nb",
            "sandboxes list",
            "pool status",
            "executions list --notebook nb",
            f"executions show {succeeded} --notebook nb",
        )
    }
    assert data["status"]["ready"] is True
    assert [each["notebook_id"] for each in data["notebooks list"]] == ["nb"]
    assert data["sandboxes list"][0]["notebook_id"] == "nb"
    assert data["notebooks show nb"][0]["outputs"][0]["text"] == f"printed {HOSTILE}\n"
    assert [each["status"] for each in data["executions list --notebook nb"]] == ["failed", "succeeded"]
    shown = data[f"executions show {succeeded} --notebook nb"]
    assert shown["usage"]["wall_s"] > 0
    assert shown["outputs"][1]["data"] == {"text/plain": "2"}
    assert failed != succeeded


def test_what_a_notebook_holds_does_nothing_to_the_terminal_of_who_looks(yard: dict[str, str]) -> None:
    _, succeeded = execution_ids(yard)
    for words in (["notebooks", "show", "nb"], ["executions", "show", succeeded, "--notebook", "nb"]):
        with on_terminal(*words, env=yard) as terminal:
            assert terminal.ended() == 0
            assert b"\x1b]0" not in terminal.raw
            assert b"\x1b[2J" not in terminal.raw
            assert "printed" in terminal.text


def test_attaching_shows_what_was_put_out_and_ends_as_the_run_did(yard: dict[str, str]) -> None:
    failed, succeeded = execution_ids(yard)
    first = run("executions", "attach", succeeded, "--notebook", "nb", env=yard)
    assert (first.returncode, first.stdout) == (0, f"printed {HOSTILE}\n2\n")
    second = run("executions", "attach", failed, "--notebook", "nb", env=yard)
    assert second.returncode == 1
    assert "of the cell" in second.stderr
    third = run("executions", "attach", failed, "--notebook", "nb", "--json", env=yard)
    lines = [json.loads(line) for line in third.stdout.splitlines()]
    assert [line["type"] for line in lines] == ["output", "finished", "result"]
    assert lines[-1]["exit_code"] == 1
    assert run("executions", "attach", "none", "--notebook", "nb", env=yard).returncode == 2
    assert run("executions", "attach", failed, "--notebook", "no such", env=yard).returncode == 2


def test_attaching_follows_a_cell_that_runs_and_leaves_it_running(yard: dict[str, str]) -> None:
    with cellyard.Session("runs", endpoint=yard["CELLYARD_ENDPOINT"]) as session:
        cell = session.create_cell("print('begun'); line = input('line? ')")
        execution_id = ""
        for event in session.stream_execute(cell, on_input=lambda prompt: pytest.fail(prompt)):
            if isinstance(event, cellyard.OutputEvent):
                execution_id = session.get_cell(cell).execution_id or ""
                break
        with on_terminal("executions", "attach", execution_id, "--notebook", "runs", env=yard) as terminal:
            terminal.expect("begun")
            terminal.type(CTRL_C)
            assert terminal.ended() == 130
        assert session.get_execution(execution_id).end is None
        session.cancel(execution_id)
        assert session.wait(execution_id, timeout=60).end == "interrupted"
    with cellyard.Client(yard["CELLYARD_ENDPOINT"]) as client:
        client.delete_notebook("runs")


def test_a_run_shows_on_a_terminal_how_far_it_is_and_only_there(yard: dict[str, str], tmp_path: Path) -> None:
    notebook = tmp_path / "two.ipynb"
    cells = [
        {"cell_type": "code", "id": name, "metadata": {}, "source": source, "outputs": [], "execution_count": None}
        for name, source in (("a", "print('first')"), ("b", "print('half', end=''); 'last'"))
    ]
    notebook.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    out = tmp_path / "out"
    with out.open("wb") as file, on_terminal("run", str(notebook), env=yard, stdout=file.fileno()) as terminal:
        assert terminal.ended() == 0
    assert out.read_text() == "first\nhalf\n'last'\n"
    assert "cell 1 of 2" in terminal.text
    assert "cell 2 of 2" in terminal.text
    with on_terminal("run", str(notebook), "--quiet", env=yard) as terminal:
        assert terminal.ended() == 0
    assert terminal.text == "first\nhalf\n'last'\n"
    piped = run("run", str(notebook), "--no-files", env=yard)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "first\nhalf\n'last'\n", "")


def test_errors_of_cells_are_coloured_only_for_somebody_who_wants_colours(yard: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0")
    piped = run("run", str(tmp_path / "bad.py"), env=yard)
    assert (piped.returncode, "\x1b" in piped.stderr) == (1, False)
    assert "ZeroDivisionError: division by zero" in piped.stderr
    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with on_terminal("run", str(tmp_path / "bad.py"), env={**yard, "NO_COLOR": "", **environ}) as terminal:
            assert terminal.ended() == 1
        assert (b"\x1b[31m" in terminal.raw) is coloured


def test_an_id_that_was_mistyped_is_said_to_be_wrong(yard: dict[str, str]) -> None:
    for words in ("sandboxes stop sb-none", "notebooks delete none", "executions cancel exec-none --notebook none"):
        done = run(*words.split(), env=yard)
        assert done.returncode == 2
        assert "none" in done.stderr


def test_programs_hear_that_there_is_no_controller(tmp_path: Path) -> None:
    done = run("status", "--json", "--endpoint", f"unix:{tmp_path}/none.sock", env={})
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["ready"] is False
    assert "nobody listens" in told["not_ready_reason"]


def test_a_reader_that_leaves_early_is_no_error_to_tell_of(yard: dict[str, str]) -> None:
    command = f"{sys.executable} -m cellyard.cli notebooks show nb | head -n 1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, timeout=60, env={**os.environ, **yard}, check=False
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def completed(line: str, env: dict[str, str]) -> list[str]:
    """What a shell is offered at the end of a line."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CELLYARD_COMPLETE": "complete_bash"}
    asked["CELLYARD_COMPLETION_TIMEOUT"] = "60"
    done = run(env={**env, **asked})
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_ids(yard: dict[str, str]) -> None:
    assert "notebooks" in completed("cellyard ", yard)
    assert completed("cellyard images b", yard) == ["build"]
    assert "--timeout" in completed("cellyard run --", yard)
    assert completed("cellyard notebooks show n", yard) == ["nb"]
    assert completed("cellyard executions show --notebook nb ", yard) == execution_ids(yard)
    assert completed("cellyard run --runtime ", yard) == ["docker"]
    assert completed("cellyard run --kernel d", yard) == ["deno"]


def test_ids_that_mean_something_to_a_shell_are_not_completed(yard: dict[str, str]) -> None:
    named = ["$(touch x)", "a;b", "-rf", "plain-1"]
    with cellyard.Client(yard["CELLYARD_ENDPOINT"]) as client:
        for name in named:
            with cellyard.Session(name, endpoint=yard["CELLYARD_ENDPOINT"], labels={"of": "test"}) as session:
                session.connect()
        try:
            assert sorted(completed("cellyard notebooks show ", yard)) == ["nb", "plain-1"]
        finally:
            for name in named:
                client.delete_notebook(name)


def test_completing_starts_no_controller_and_says_nothing(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path / "s"), "XDG_RUNTIME_DIR": str(tmp_path), "CELLYARD_ENDPOINT": ""}
    assert completed("cellyard notebooks show ", env) == []
    assert completed("cellyard run --template ", env) == ["default"]
    assert not (tmp_path / "s").exists()
    assert completed("cellyard notebooks show ", {"CELLYARD_ENDPOINT": "no endpoint"}) == []


@pytest.mark.parametrize(
    ("shell", "says"),
    [("bash", "complete -o default -F"), ("zsh", "#compdef cellyard"), ("fish", "complete --command cellyard")],
)
def test_the_script_for_the_shell_that_asks_is_printed(tmp_path: Path, shell: str, says: str) -> None:
    """Shells are known by the names of their processes."""
    (tmp_path / shell).symlink_to(shutil.which("bash") or "")
    done = subprocess.run(
        [
            tmp_path / shell,
            "-c",
            f"{shlex.quote(str(Path(sys.executable).with_name('cellyard')))} --show-completion; exit $?",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "_CELLYARD_COMPLETE" in done.stdout
    assert says in done.stdout


def parsed(words: list[str]) -> None:
    """Has a command parse its arguments, as far as to the point where it would run."""
    import typer

    from cellyard.cli.app import app

    command = typer.main.get_command(app)
    context = command.make_context("cellyard", arguments(words), resilient_parsing=False)
    rest = [*context._protected_args, *context.args]
    while rest:
        name, command, rest = command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, list(rest), parent=context)
        rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []


@pytest.mark.parametrize("line", [line for each in manual.EXAMPLES.values() for line, _ in each])
def test_every_example_of_the_help_is_one_that_the_commands_take(line: str) -> None:
    words = shlex.split(line.split("|")[-1] if line.startswith("echo") else line.split("|")[0])
    assert words[0] == "cellyard"
    parsed(words[1:])


def test_every_command_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for name in manual.EXAMPLES:
        done = manual.epilog(name)
        assert done is not None
        assert "Exit codes:" in done
    for topic in manual.TOPICS:
        assert max(map(len, manual.TOPICS[topic].splitlines())) <= 100


def test_a_build_of_an_image_shows_its_steps_on_a_terminal_and_only_there(tmp_path: Path) -> None:
    name = f"steps-{os.getpid()}"
    (tmp_path / "Dockerfile").write_text(f"FROM cellyard-environment\nENV STEPS={name}\n")
    words = ["images", "build", name, "--file", str(tmp_path / "Dockerfile")]
    try:
        with on_terminal(*words, env={}) as terminal:
            assert terminal.ended() == 0
        assert "adding the kernel agent" in terminal.text
        assert "━" in terminal.text
        piped = run(*words, env={})
        assert piped.stdout.startswith(f"cellyard-custom-{name}:")
        assert piped.stderr == "building the Dockerfile\n"
    finally:
        run("images", "remove", name, env={})
