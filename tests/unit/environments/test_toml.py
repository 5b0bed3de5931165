"""TOML of strangers: what would take all memory is found before the parser sees it."""

from __future__ import annotations

import pytest

from cellyard_controller.config import CondaConfig, EnvironmentsConfig
from cellyard_controller.environments.conda_reading import read_pixi
from cellyard_controller.environments.reading import Bounds, read_pyproject
from cellyard_controller.environments.toml import parse_toml
from cellyard_controller.errors import InvalidRequest

DEEP = {
    "bare": "a." * 100_000 + "a = 1",
    "quoted": '"a".' * 50_000 + "a = 1",
    "literal, with blanks": "'a' \t. " * 30_000 + "a = 1",
    "with dots and quotes in it": r'"\".=#".' * 20_000 + "a = 1",
    "a table's": "[" + "a." * 100_000 + "a]",
    "in a table within a line": "x = {" + "a." * 100_000 + "a = 1}",
    "behind a string of several lines": "x = {a = ''' ' ''', " + "a." * 100_000 + "'x' = 1}",
    "behind a comment": "# \"'\n" + "a." * 100_000 + "a = 1",
}


@pytest.mark.parametrize("what", DEEP)
def test_a_key_of_endless_parts_is_refused_with_its_line(what: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^file, line \d: a key has more than 10 parts"):
        parse_toml(DEEP[what], "file")


def test_project_files_are_read_with_that_care() -> None:
    with pytest.raises(InvalidRequest, match=r"pyproject.toml, line 1: a key has more"):
        read_pyproject(DEEP["bare"], Bounds(262_144, 10))
    with pytest.raises(InvalidRequest, match=r"pixi.toml, line 1: a key has more"):
        read_pixi(DEEP["bare"], EnvironmentsConfig(conda=CondaConfig(channels=("https://host.example/x",))))


@pytest.mark.parametrize("text", ['a = "', "a = '", 'a = """', "a = '''", 'a = "' + '\\"' * 100_000, '"' * 100_000])
def test_a_string_without_an_end_is_no_toml(text: str) -> None:
    with pytest.raises(InvalidRequest, match="file is no TOML"):
        parse_toml(text, "file")


def test_what_projects_have_is_read() -> None:
    text = """
[project]
dependencies = ["a==1.2.3.4.5.6.7.8.9.10.11.12", "b; python_version < '3.12'"] # a.b.c.d.e.f.g.h.i.j.k.l.m
description = '''a.b.c.d.e.f.g.h.i.j.k.l.m "'''
[tool.one."two.three".'four'.five]
six.seven = 1.5
when = 1979-05-27T07:32:00.999-07:00
"""
    found = parse_toml(text, "file")
    assert found["tool"]["one"]["two.three"]["four"]["five"]["six"] == {"seven": 1.5}
