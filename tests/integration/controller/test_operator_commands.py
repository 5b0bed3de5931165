"""The operator's commands that need no engine: what they print, and where their configuration comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cellyard_controller import cli_tables
from cellyard_controller.config import Config


def run(*words: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CELLYARD_")}
    command = [sys.executable, "-m", "cellyard.cli", *words]
    return subprocess.run(
        command, cwd=folder, env={**kept, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_file_that_the_environment_names_is_said_to_be_the_source(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[pool]\nsize = 3\n")
    shown = json.loads(run("config", "show", "--json", folder=tmp_path, CELLYARD_CONFIG="c.toml").stdout)
    assert shown["pool"]["size"] == {"value": 3, "source": "file"}


def test_a_file_that_the_environment_names_and_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = run("config", "show", folder=tmp_path, CELLYARD_CONFIG="none.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cellyard: the configuration file none.toml does not exist\n"


def test_a_data_folder_is_absolute_wherever_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An engine refuses a relative mount, and then nothing about a sandbox could be proven.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Config(data=Path("data")).data == tmp_path / "data"
    monkeypatch.setenv("CELLYARD_DATA", "~/data")
    assert Config().data == Path("/home/somebody/data")


def test_lists_are_columns_that_programs_can_part(tmp_path: Path) -> None:
    for name, *quotas in (["alice", "--quota", "sandboxes=4"], ["bartholomew"]):
        assert run("tenants", "create", name, *quotas, "--data", "d", folder=tmp_path).returncode == 0
    listed = run("tenants", "list", "--data", "d", folder=tmp_path).stdout
    assert listed == "alice        1  sandboxes=4\nbartholomew  1  no quotas\n"
    tokens = run("tenants", "tokens", "alice", "--data", "d", folder=tmp_path).stdout.split()
    assert tokens[1:] == ["full", "never", "never", "-"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["nobody"], "the tenant 'nobody' does not exist"),
        (["--since", "yesterday"], "'yesterday' is no day: write it as 2024-02-29"),
    ],
)
def test_usage_of_nobody_and_of_no_day_is_refused_without_a_controller_too(
    tmp_path: Path, asked: list[str], says: str
) -> None:
    done = run("tenants", "usage", *asked, "--data", "d", folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"cellyard: {says}\n")
    done = run("tenants", "usage", "local", "--data", "d", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "local keeps 0 notebooks, 0 bytes\n")


def test_nothing_in_a_table_does_something_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    cli_tables.table(("a", "b"), [("\x1b[2J", None), ("x", "\u202e")])
    assert capsys.readouterr().out == "\\x1b[2J  -\nx        \\u202e\n"


def test_a_command_of_the_operator_that_is_no_command_is_refused_in_a_sentence(tmp_path: Path) -> None:
    done = run("tenants", "lst", folder=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'list'?" in done.stderr
    assert "╭" not in done.stderr
