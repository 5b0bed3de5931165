"""What the command line makes of its arguments before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from cellyard.cli import arguments, sources


@pytest.mark.parametrize(
    ("given", "means"),
    [
        (["run", "x.py"], ["run", "x.py"]),
        (["run", "x.py", "--files", "a", "b", "--json"], ["run", "x.py", "--files", "a", "--files", "b", "--json"]),
        (
            ["run", "--files", "a", "--files", "b", "--json", "-"],
            ["run", "--files", "a", "--files", "b", "--json", "-"],
        ),
        (["run", "-", "--", "--files", "a"], ["run", "-", "--", "--files", "a"]),
    ],
)
def test_files_may_be_listed(given: list[str], means: list[str]) -> None:
    assert arguments(given) == means


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    import io
    import sys

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_code_that_begins_with_a_brace_is_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, "{1, 2}")
    assert sources.read("-").notebook is None


def test_a_notebook_on_stdin_is_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}))
    assert sources.read("-").notebook is not None


def test_json_that_is_nested_too_deep_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep.ipynb"
    path.write_text("[" * 100_000)
    with pytest.raises(typer.Exit) as ended:
        sources.read(str(path))
    assert ended.value.exit_code == 2
    assert "no notebook" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "same.txt")
        paths[-1].write_text(folder)
    with pytest.raises(typer.Exit):
        sources.chosen(paths)


def test_what_goes_along_is_plain_visible_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook, out = tmp_path / "n.ipynb", tmp_path / "out.ipynb"
    for name in ("n.ipynb", "out.ipynb", "data.csv", ".hidden"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("data.csv")
    (tmp_path / "large").write_bytes(b"x" * (sources.MAX_FILES + 1))
    assert sources.beside(notebook, out) == {"data.csv": b"data.csv"}
    said = capsys.readouterr().err
    assert "data.csv" in said
    assert "large" in said
