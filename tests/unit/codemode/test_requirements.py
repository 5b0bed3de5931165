"""Which packages can be asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellyard_proto.codemode import requirements
from cellyard_proto.codemode.errors import DependencyError


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("pandas", "pandas"),
        ("Six>=1.0", "six>=1.0"),
        (" my_Package.x == 2.* ", "my-package-x==2.*"),
        ("pandas[excel, s3]>=2, <3", "pandas[excel,s3]>=2,<3"),
        ("x~=1.4.2,!=1.4.5", "x~=1.4.2,!=1.4.5"),
    ],
)
def test_names_with_extras_and_versions_are_taken(asked: str, kept: str) -> None:
    assert requirements.normalise(asked) == kept
    assert requirements.normalise(kept) == kept


@pytest.mark.parametrize(
    "asked",
    [
        "",
        " ",
        "-r other.txt",
        "--index-url=x",
        "a @ file:///x",
        "git+https://x/y",
        "./x",
        "../x.whl",
        "x; python_version > '3'",
        "x | sh",
        "x & y",
        "x`id`",
        "$(id)",
        "x\ny",
        "x\r",
        "x\0",
        "x >= ",
        "x>=1 y",
        "x" * 257,
        "é",
        5,
        None,
    ],
)
def test_anything_else_is_refused(asked: object) -> None:
    with pytest.raises(DependencyError):
        requirements.normalise(asked)


@given(st.text(max_size=40))
def test_whatever_is_taken_is_one_word_that_no_tool_reads_as_an_option(asked: str) -> None:
    try:
        kept = requirements.normalise(asked)
    except DependencyError:
        return
    assert kept == "".join(kept.split())
    assert kept.isascii()
    assert kept[0].isalnum()
    assert not set(kept) & set("@;()|&`$/\\'\"#")
    assert kept.startswith(requirements.package(kept))


def test_a_file_lists_one_on_each_line() -> None:
    text = "# first\nPandas>=2  # needed\n\nsix\n"
    assert requirements.from_file(text, "requirements.txt") == ["pandas>=2", "six"]
    with pytest.raises(DependencyError, match=r"requirements\.txt, line 2: "):
        requirements.from_file("six\n-e .\n", "requirements.txt")
