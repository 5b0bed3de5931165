"""Packages for a kernel that runs: what is asked for, against what is there; and what of a folder goes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_controller.environments.beside import (
    already,
    for_present,
    missing,
    read_names,
    read_requirements,
    read_survey,
)
from cellyard_controller.environments.definition import Present, name_of
from cellyard_controller.environments.packing import PackedFile, pack, stream
from cellyard_controller.environments.reading import Bounds
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest

from .test_definitions import HOSTILE, PYTHON

BOUNDS = Bounds(64 * 1024, 50)
THERE = (Present("numpy", "1.26.4"), Present("pandas", "2.0", ("x; extra == 'more'",), ("more",)))


@pytest.mark.parametrize("requirement", [*HOSTILE.values(), "tiny; python_version > '3'", "tiny && x", "$(x)", "a|b"])
def test_only_names_extras_and_versions_are_installed(requirement: str) -> None:
    with pytest.raises(InvalidRequest):
        read_requirements([requirement], BOUNDS)
    with pytest.raises(InvalidRequest):
        read_names([requirement], BOUNDS)


def test_nothing_and_too_much_are_refused() -> None:
    for wanted in ([], ["x"] * 51):
        with pytest.raises(InvalidRequest):
            read_requirements(wanted, BOUNDS)
        with pytest.raises(InvalidRequest):
            read_names(wanted, BOUNDS)


def test_names_are_normalised_and_told_once() -> None:
    assert read_names(["A_b", "a.B", "c"], BOUNDS) == ("a-b", "c")


def test_only_what_is_missing_has_to_come() -> None:
    wanted = read_requirements(["NumPy>1", "pandas[more]", "new>=2", "pandas"], BOUNDS)
    assert missing(wanted, THERE, ()) == ["new>=2", "pandas[more]"]
    assert already(wanted, {"new", "x"}) == ("numpy>1", "pandas", "pandas[more]")


@pytest.mark.parametrize(("brought", "remedy"), [((), "define one"), (("numpy",), "uninstall that first")])
def test_another_version_of_what_is_there_is_refused(brought: tuple[str, ...], remedy: str) -> None:
    with pytest.raises(EnvironmentFailed, match=rf"'numpy>=2' cannot be had: .*numpy 1.26.4.*{remedy}") as failed:
        missing(read_requirements(["new", "numpy>=2"], BOUNDS), THERE, brought)
    assert failed.value.details["requirement"] == "numpy>=2"


def test_what_is_there_is_part_of_what_it_is_called_by() -> None:
    wanted = read_requirements(["new"], BOUNDS)
    names = [name_of(for_present(wanted, ["new"], present), PYTHON) for present in ((), THERE[:1], THERE)]
    assert len(set(names)) == 3
    assert names[0] == name_of(wanted, PYTHON)


def line(**about: object) -> str:
    return json.dumps({"name": "x", "version": "1.0", "requires": [], "extras": [], **about})


def test_a_survey_is_read_and_what_makes_no_sense_in_it_is_not() -> None:
    said = "\n".join(
        [
            line(
                name="B_c", version="1.0.0RC1", extras=["More"], requires=["a>1", "b @ file:///x", "no sense!", "a>1"]
            ),
            line(name="b-c", version="9"),
            line(name="../x"),
            line(name="a\nb"),
            line(name=None),
            line(version="../../x"),
            line(version="one"),
            line(requires=3),
            line(extras=["\n"]),
            "no JSON",
            "[1]",
            "{}",
            "[" * 100_000,
        ]
    )
    assert read_survey(said) == (Present("b-c", "1.0.0rc1", ("a>1",), ("more",)),)


@given(st.text(max_size=200))
def test_whatever_a_sandbox_says_is_read(said: str) -> None:
    assert isinstance(read_survey(said), tuple)


def package(site: Path, name: str, version: str, record: str | None, files: dict[str, str]) -> None:
    about = site / f"{name}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("x")
    if record is not None:
        (about / "RECORD").write_text(record)
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)


def test_each_file_belongs_to_those_that_record_it_and_bytecode_to_its_source(tmp_path: Path) -> None:
    package(tmp_path, "b_x", "1.0", "shared.py,,\nb/a.py,,\n../../etc/passwd,,\n", {"b/a.py": "bb", "shared.py": "s"})
    package(tmp_path, "a", "2.0+cpu", "./shared.py,,\n", {"b/__pycache__/a.cpython-311.pyc": "code"})
    packed = pack(tmp_path)
    assert packed.packages == (("a", "2.0+cpu"), ("b-x", "1.0"))
    owners = {file.path: file.owners for file in packed.files}
    assert owners == {
        "a-2.0+cpu.dist-info/METADATA": (0,),
        "a-2.0+cpu.dist-info/RECORD": (0,),
        "b_x-1.0.dist-info/METADATA": (1,),
        "b_x-1.0.dist-info/RECORD": (1,),
        "b/__pycache__/a.cpython-311.pyc": (1,),
        "b/a.py": (1,),
        "shared.py": (0, 1),
    }
    assert packed.size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("record", [None, "", "other.py,,\n", "\0,,", '"unfinished'])
def test_a_file_of_nobodys_is_refused(record: str | None, tmp_path: Path) -> None:
    package(tmp_path, "a", "1.0", record, {"stray.py": "x"})
    with pytest.raises(EnvironmentFailed, match=r"'stray.py' is in one, and no RECORD of a package names it"):
        pack(tmp_path)


def test_files_go_in_each_behind_its_header(tmp_path: Path) -> None:
    package(tmp_path, "a", "1.0", "a.bin,,\nb.bin,,\n", {"a.bin": "a" * 700_000, "b.bin": ""})

    def header(file: PackedFile) -> bytes:
        return f"<{file.path}>".encode()

    packed = pack(tmp_path)
    pieces = list(stream(tmp_path, packed, header))
    about = b"<a-1.0.dist-info/METADATA>x<a-1.0.dist-info/RECORD>a.bin,,\nb.bin,,\n"
    assert sorted(b"".join(pieces)) == sorted(about + b"<a.bin>" + b"a" * 700_000 + b"<b.bin>")
    assert len(pieces) == 3
    (tmp_path / "a.bin").write_text("short")
    with pytest.raises(EnvironmentFailed, match=r"a\.bin is not as long as it was"):
        list(stream(tmp_path, packed, header))
