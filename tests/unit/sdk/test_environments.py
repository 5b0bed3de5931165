"""Which environment is asked for: metadata first, then the closest project file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard import InvalidRequest
from cellyard._environments import LARGEST, PROJECT_FILES, choose
from cellyard_proto.v1 import kernels_pb2

UV = json.dumps({"runt": {"uv": {"dependencies": ["tiny"], "requires-python": ">=3.11"}}})
CONDA = json.dumps({"runt": {"conda": {"dependencies": ["tiny"], "channels": ["local"]}}})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with a project below it."""
    (tmp_path / "home" / "project" / "notebooks").mkdir(parents=True)
    return tmp_path / "home"


def chosen(
    env_source: str, metadata: str | None = None, path: Path | None = None, home: Path = Path("/nowhere")
) -> kernels_pb2.KernelSettings:
    return choose("python", env_source, metadata, path, home=home)


def test_nothing_found_stays_auto() -> None:
    assert chosen("auto") == kernels_pb2.KernelSettings(kernel_type="python", env_source="auto")


@pytest.mark.parametrize("place", [{"runt": {"uv": {}}}, {"uv": {}}])
def test_inline_dependencies_of_both_places(place: dict[str, dict[str, object]]) -> None:
    table = place.get("uv", place.get("runt", {}).get("uv"))
    assert isinstance(table, dict)
    table |= {"dependencies": ["a>1", "b"], "requires-python": ">=3.11"}
    found = chosen("auto", json.dumps(place))
    assert found.env_source == "uv:inline"
    assert list(found.environment.dependencies.requirements) == ["a>1", "b"]
    assert found.environment.dependencies.requires_python == ">=3.11"


def test_the_newer_place_counts_before_the_older_and_uv_before_conda() -> None:
    both = {"runt": {"uv": {"dependencies": ["new"]}}, "uv": {"dependencies": ["old"]}}
    assert list(chosen("auto", json.dumps(both)).environment.dependencies.requirements) == ["new"]
    mixed = {"runt": {"conda": {"dependencies": ["c"]}}, "uv": {"dependencies": ["u"]}}
    assert chosen("auto", json.dumps(mixed)).env_source == "uv:inline"
    assert chosen("conda:inline", json.dumps(mixed)).env_source == "conda:inline"
    empty = {"runt": {"uv": {"dependencies": []}, "conda": {"dependencies": ["c"], "channels": ["x"]}}}
    found = chosen("auto", json.dumps(empty))
    assert (found.env_source, list(found.environment.dependencies.channels)) == ("conda:inline", ["x"])


def test_inline_dependencies_come_before_project_files(home: Path) -> None:
    (home / "project" / "pyproject.toml").write_text("[project]\n")
    assert chosen("auto", UV, home / "project" / "a.ipynb", home).env_source == "uv:inline"
    assert chosen("auto", "{}", home / "project" / "a.ipynb", home).env_source == "uv:pyproject"


def test_the_closest_folder_counts_whatever_the_file(home: Path) -> None:
    (home / "project" / "pyproject.toml").write_text("[project]\n")
    (home / "project" / "notebooks" / "environment.yaml").write_text("name: x\n")
    found = chosen("auto", None, home / "project" / "notebooks" / "a.ipynb", home)
    assert (found.env_source, found.environment.project_file.name) == ("conda:env_yml", "environment.yaml")
    assert found.environment.project_file.content == "name: x\n"
    named = chosen("uv:pyproject", None, home / "project" / "notebooks" / "a.ipynb", home)
    assert (named.env_source, named.environment.project_file.content) == ("uv:pyproject", "[project]\n")


def test_only_content_travels_never_a_path(home: Path) -> None:
    (home / "project" / "pyproject.toml").write_text("[project]\n")
    sent = chosen("auto", None, home / "project" / "a.ipynb", home).SerializeToString()
    assert str(home).encode() not in sent


@given(
    st.lists(st.sets(st.sampled_from([*PROJECT_FILES, ".git"])), min_size=3, max_size=3),
    st.sampled_from(["inside", "outside"]),
)
def test_the_search_ends_at_a_repository_or_the_home_folder(folders: list[set[str]], where: str) -> None:
    """Top to bottom: above the home folder or in it, the home folder, the notebook's."""
    top = Path(tempfile.mkdtemp())
    try:
        levels = [top, top / "a", top / "a" / "b"]
        levels[-1].mkdir(parents=True)
        for folder, names in zip(levels, folders, strict=True):
            for name in names:
                (folder / name).write_text("")
        home = levels[1] if where == "inside" else top
        expected = "auto"
        for folder, names in reversed(list(zip(levels, folders, strict=True))):
            here = [source for name, source in PROJECT_FILES.items() if name in names]
            if here:
                expected = here[0]
            if here or ".git" in names or folder == home:
                break
        assert chosen("auto", None, levels[-1] / "a.ipynb", home).env_source == expected
    finally:
        shutil.rmtree(top)


def test_what_is_named_has_to_be_there(home: Path) -> None:
    for source in ("uv:inline", "conda:inline", "uv:pyproject", "pixi:toml", "conda:env_yml"):
        with pytest.raises(InvalidRequest, match=source):
            chosen(source, "{}", home / "project" / "a.ipynb", home)


def test_a_named_file_without_a_path_is_looked_for_from_the_current_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "project" / "pixi.toml").write_text("")
    monkeypatch.chdir(home / "project" / "notebooks")
    assert chosen("pixi:toml", None, None, home).env_source == "pixi:toml"
    assert chosen("auto", None, None, home).env_source == "auto"


@pytest.mark.parametrize("source", ["uv:prewarmed", "conda:prewarmed", "deno", "magic"])
def test_other_sources_are_the_controllers(source: str, home: Path) -> None:
    (home / "pyproject.toml").write_text("")
    found = chosen(source, UV, home / "a.ipynb", home)
    assert (found.env_source, found.HasField("environment")) == (source, False)


def test_a_deno_kernel_has_no_python_environment(home: Path) -> None:
    (home / "pyproject.toml").write_text("")
    found = choose("deno", "auto", UV, home / "a.ipynb", home=home)
    assert (found.kernel_type, found.env_source, found.HasField("environment")) == ("deno", "auto", False)


@pytest.mark.parametrize("metadata", ["", "no json", "[]", "3", '{"runt": 3, "uv": []}', "[" * 100_000])
def test_metadata_without_dependencies_is_none(metadata: str) -> None:
    assert chosen("auto", metadata).env_source == "auto"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"dependencies": "tiny"}, r"runt.uv.dependencies"),
        ({"dependencies": [1]}, r"runt.uv.dependencies"),
        ({"dependencies": ["a"], "requires-python": 3}, r"runt.uv.requires-python"),
        ({"dependencies": ["\ud800"]}, "no text"),
    ],
)
def test_malformed_dependencies_are_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        chosen("auto", json.dumps({"runt": {"uv": table}}))


def test_files_that_cannot_be_sent_are_refused(home: Path) -> None:
    file = home / "project" / "pyproject.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        chosen("auto", None, file.parent, home)
    file.write_bytes(b" " * (LARGEST + 1))
    with pytest.raises(InvalidRequest, match="larger"):
        chosen("auto", None, file.parent, home)
    file.unlink()
    os.mkfifo(file)
    assert chosen("auto", None, file.parent, home).env_source == "auto"
