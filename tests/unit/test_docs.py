"""What the documentation says is what there is: public names, settings and their defaults, and a site that builds."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cellyard
import cellyard.codemode

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "docs" / "reference" / "python"
MODULES = (cellyard, cellyard.codemode)
WITHIN = 200.0


def script(name: str) -> types.ModuleType:
    """A module of those that make the site."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "scripts" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(module: types.ModuleType) -> list[str]:
    return [name for name in module.__all__ if name not in ("__version__", "RuntimedError")]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_stands_on_one_page_of_the_reference(module: types.ModuleType) -> None:
    shown = re.findall(
        rf"^::: {re.escape(module.__name__)}\.(\w+)$",
        "\n".join(page.read_text() for page in PYTHON.glob("*.md")),
        re.MULTILINE,
    )
    assert sorted(shown) == sorted(public(module))


def undocumented(module: types.ModuleType) -> Iterator[str]:
    for name in public(module):
        item = getattr(module, name)
        if not isinstance(item, type):
            continue
        # A dataclass that has none is given one by the interpreter: its signature.
        if not item.__doc__ or (dataclasses.is_dataclass(item) and item.__doc__.startswith(f"{name}(")):
            yield name
        for member, value in inspect.getmembers(item):
            code: Any = getattr(value, "fget", value)
            ours = str(getattr(code, "__module__", "")).startswith("cellyard")
            if not member.startswith("_") and callable(code) and ours and not inspect.getdoc(code):
                yield f"{name}.{member}"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_says_what_it_is(module: types.ModuleType) -> None:
    assert list(undocumented(module)) == []


def test_every_setting_says_what_it_is() -> None:
    configuration = script("configuration")
    assert [name for name, field in configuration.fields() if not field.description] == []


def test_limits_are_those_of_the_configuration() -> None:
    defaults = script("configuration").defaults()
    compared = 0
    for line in (ROOT / "docs" / "explanation" / "limits.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for at, cell in enumerate(cells[1:], start=1):
            for name in re.findall(r"`([\w.]+)`", cell):
                if re.fullmatch(r"[a-z]+(\.\w+)+", name):
                    assert defaults[name] == cells[at - 1], name
                    compared += 1
    assert compared > 40


@pytest.mark.timeout(240)
def test_the_site_builds_whole_and_brings_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.html")}
    assert "Start" in pages["reference/protocol/executions.html"]
    assert "CELLYARD_POOL__SIZE" in pages["reference/configuration.html"]
    assert "timeout_secs" in pages["reference/python/session.html"]
    for name, text in pages.items():
        assert re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"(?:https?:)?//[^\"]*", text) == [], name
        assert re.findall(r"<link[^>]*rel=\"(?:stylesheet|preconnect|icon)\"[^>]*href=\"(?:https?:)?//", text) == [], (
            name
        )
