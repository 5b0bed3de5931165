"""What clients send to define an environment: read, refused, and named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from cellyard_controller.environments.definition import Definition, Interpreter, for_interpreter, name_of
from cellyard_controller.environments.reading import Bounds, read_list, read_pyproject
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest

BOUNDS = Bounds(64 * 1024, 50)
MARKERS = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.2",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "6.1",
    "platform_system": "Linux",
    "platform_version": "1",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}
PYTHON = Interpreter(MARKERS, ("glibc", 2, 36))


def listed(*requirements: str, python: str = "") -> Definition:
    return read_list(requirements, python, BOUNDS)


HOSTILE = {
    "a file": "tiny @ file:///etc/passwd",
    "a file without slashes": "tiny @ file:etc/passwd",
    "a file in capitals": "tiny @ FILE:///etc/passwd",
    "a git repository": "git+https://host.example/x.git",
    "a named git repository": "x @ git+ssh://git@host.example/x.git",
    "a URL": "x @ https://host.example/x.whl",
    "a bare URL": "https://host.example/x-1-py3-none-any.whl",
    "a path": "./x",
    "a path upwards": "../x",
    "a home": "~/x",
    "an absolute path": "/etc/passwd",
    "an index": "--index-url=https://host.example/simple",
    "another index": "--extra-index-url https://host.example/simple",
    "an include": "-r requirements.txt",
    "constraints": "-c constraints.txt",
    "an editable": "-e .",
    "two lines": "tiny\n--index-url https://host.example",
    "a carriage return": "tiny\r-r x",
    "a NUL": "ti\0ny",
    "nothing": "",
    "blanks": "  ",
    "no name": "==1.0",
    "a broken marker": "tiny; python_version",
    "a broken version": "tiny==not a version",
    "a long one": "a" * 2000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_name_and_version_is_refused_with_its_place(what: str) -> None:
    with pytest.raises(InvalidRequest, match="dependency 2"):
        listed("tiny", HOSTILE[what])


@pytest.mark.parametrize("what", [what for what in HOSTILE if what not in ("two lines", "a carriage return", "a NUL")])
def test_a_project_files_line_is_named(what: str) -> None:
    text = f'[project]\nname = "x"\ndependencies = [\n  "tiny",\n  "{HOSTILE[what]}",\n]\n'
    with pytest.raises(InvalidRequest, match=r"pyproject.toml, line \d"):
        read_pyproject(text, BOUNDS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[project]\nname = \n", "no TOML.*line 2"),
        ("[project]\ndependencies = 'tiny'\n", "no list of strings"),
        ("[project]\ndependencies = [1]\n", "no list of strings"),
        ("project = 1\n", "no table"),
        ("[project]\nrequires-python = 3\n", "no string"),
        ("[project]\nrequires-python = 'soon'\n", "no set of versions"),
        ("[project]\n\ndynamic = ['dependencies']\n", "line 3.*dynamic"),
        ("[[tool.uv.index]]\nurl = 'https://host.example'\n", "line 1.*tool.uv.index"),
        ("[tool.uv]\nindex-url = 'https://host.example'\n", "line 2.*tool.uv.index-url"),
        ("[tool.uv]\nfind-links = ['/etc']\n", "tool.uv.find-links"),
        ("[tool.uv.pip]\nextra-index-url = ['https://host.example']\n", "tool.uv.pip"),
        ("[tool.uv]\noverride-dependencies = ['tiny<1']\n", "not supported"),
        (
            "[project]\ndependencies = ['Ti_ny']\n[tool.uv.sources]\nti-ny = { git = 'https://host.example/x' }\n",
            "line 4.*names a place for 'ti-ny'",
        ),
        ("a = " + "[" * 20_000, "no TOML"),
        ("# " + "x" * 70_000, "at most 65536"),
        ("[project]\ndependencies = [" + "'a'," * 51 + "]\n", "at most 50"),
    ],
)
def test_malformed_and_hostile_project_files_are_refused(content: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_pyproject(content, BOUNDS)


def test_a_project_file_says_what_is_to_be_there() -> None:
    content = (
        "[project]\nrequires-python = '>=3.11, <4'\ndependencies = ['Ti_ny >= 1, <2', \"b[Y,x]; os_name=='posix'\"]\n"
    )
    assert read_pyproject(content, BOUNDS) == Definition(
        "uv", ('b[x,y] ; os_name == "posix"', "ti-ny<2,>=1"), "<4,>=3.11"
    )
    assert read_pyproject("[tool.ruff]\nline-length = 120\n", BOUNDS) == Definition("uv", ())
    sources = "[project]\ndependencies = ['tiny']\n[tool.uv.sources]\nother = { path = '../x' }\n"
    assert read_pyproject(sources, BOUNDS).requirements == ("tiny",)


def test_markers_are_evaluated_for_the_images_interpreter() -> None:
    wanted = listed("tiny; python_version >= '3.11'", "old; python_version < '3'", "win; sys_platform == 'win32'")
    assert for_interpreter(wanted, PYTHON).requirements == ("tiny",)
    assert name_of(wanted, PYTHON) == name_of(listed("tiny"), PYTHON)


def test_another_python_than_required_is_told() -> None:
    with pytest.raises(EnvironmentFailed, match=r">=3.12, and the image has Python 3.11.2"):
        name_of(listed("tiny", python=">=3.12"), PYTHON)


@pytest.mark.parametrize("marker", ["python_version ~= 'x'", "os_name ~= '1'", "'1' ~= os_name"])
def test_a_marker_that_means_nothing_is_told(marker: str) -> None:
    with pytest.raises(EnvironmentFailed, match="tiny"):
        for_interpreter(listed(f"tiny; {marker}"), PYTHON)


def test_platform_and_interpreter_make_other_environments() -> None:
    others = [
        Interpreter(MARKERS | {"python_full_version": "3.12.1", "python_version": "3.12"}, PYTHON.libc),
        Interpreter(MARKERS | {"platform_machine": "aarch64"}, PYTHON.libc),
        Interpreter(MARKERS | {"implementation_name": "pypy"}, PYTHON.libc),
        Interpreter(MARKERS, ("glibc", 2, 28)),
    ]
    assert len({name_of(listed("tiny"), each) for each in (PYTHON, *others)}) == 5


def test_platforms_by_uvs_names() -> None:
    assert PYTHON.platform == "x86_64-manylinux_2_36"
    assert Interpreter(MARKERS, ("glibc", 2, 99)).platform == "x86_64-manylinux_2_40"
    with pytest.raises(EnvironmentFailed, match="musl"):
        _ = Interpreter(MARKERS, ("musl", 1, 2)).platform


NAMES = st.from_regex(r"[a-z]([a-z0-9]|[-_.](?=[a-z0-9])){0,8}[a-z0-9]", fullmatch=True)
VERSIONS = st.tuples(st.sampled_from([">=", "<", "==", "!=", "~="]), st.sampled_from(["1.0", "2.3", "4.5.6"]))
MARKER_TEXTS = st.sampled_from(["", "; python_version>='3.8'", '; os_name == "nt"', "; extra=='x'"])
REQUIREMENTS = st.tuples(NAMES, st.lists(NAMES, max_size=2), st.lists(VERSIONS, max_size=2), MARKER_TEXTS)


def spell(parts: tuple[str, list[str], list[tuple[str, str]], str], dice: random.Random) -> str:
    """One of the many ways to write a requirement."""
    name, extras, versions, marker = parts
    name = "".join(dice.choice("-_.") if each in "-_." else dice.choice((each, each.upper())) for each in name)
    dice.shuffle(extras)
    dice.shuffle(versions)
    blank = dice.choice(("", " "))
    told = f"[{f',{blank}'.join(extras)}]" if extras else ""
    return f"{blank}{name}{told}{blank}{f'{blank},'.join(a + blank + b for a, b in versions)}{blank}{marker}"


@given(st.lists(REQUIREMENTS, max_size=6), st.randoms(use_true_random=False))
def test_order_and_spelling_do_not_matter(
    parts: list[tuple[str, list[str], list[tuple[str, str]], str]], dice: random.Random
) -> None:
    first = listed(*(spell(each, dice) for each in parts))
    dice.shuffle(parts)
    second = listed(*(spell(each, dice) for each in (*parts, *parts[:1])))
    assert first == second
    assert name_of(first, PYTHON) == name_of(second, PYTHON)
    assert listed(*first.requirements) == first


@given(st.text(max_size=80))
def test_whatever_is_sent_is_taken_as_a_requirement_or_refused(text: str) -> None:
    try:
        found = listed(text)
    except InvalidRequest:
        return
    [requirement] = found.requirements
    assert Requirement(requirement).url is None
    assert requirement[0].isalnum()
    assert requirement.isprintable()


@given(st.text(max_size=200))
def test_whatever_is_sent_is_taken_as_a_project_file_or_refused(text: str) -> None:
    try:
        assert isinstance(read_pyproject(text, BOUNDS), Definition)
    except InvalidRequest:
        pass


def test_this_projects_own_file_is_one() -> None:
    content = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert any(each.startswith("grpcio") for each in read_pyproject(content, BOUNDS).requirements)
