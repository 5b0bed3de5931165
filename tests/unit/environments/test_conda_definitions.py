"""What clients send to define an environment of conda packages: read, refused, and named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cellyard_controller.config import CondaConfig, EnvironmentsConfig
from cellyard_controller.environments.conda_reading import (
    prewarmed,
    read_conda_list,
    read_environment_yml,
    read_pixi,
    require_channels,
)
from cellyard_controller.environments.definition import Definition, Interpreter, name_of
from cellyard_controller.errors import CapabilityUnavailable, InvalidRequest

SECRET = "https://somebody:hush@mirror.example/t/token/forge"
CONFIG = EnvironmentsConfig(
    conda=CondaConfig(channels=(SECRET, "file:///srv/channels/own")), definition=64 * 1024, requirements=50
)
MARKERS = {"platform_machine": "x86_64", "python_full_version": "3.11.2", "implementation_name": "cpython"}


def listed(*requirements: str, channels: tuple[str, ...] = ()) -> Definition:
    return read_conda_list(requirements, channels, CONFIG)


SPELLINGS = {
    "a name": ("NumPy", "numpy"),
    "any version": ("numpy *", "numpy"),
    "one version": ("numpy ==1.2", "numpy ==1.2"),
    "a version behind a blank": ("numpy 1.2.*", "numpy 1.2.*"),
    "conda's equals sign": ("numpy=1.2", "numpy 1.2.*"),
    "conda's equals sign with a build": ("numpy=1.2=py_0", "numpy 1.2 py_0"),
    "a range": ("numpy<2, >= 1.2", "numpy <2,>=1.2"),
    "a choice": ("numpy 1.2|>=2", "numpy 1.2|>=2"),
    "a build": ("numpy >=1.2 py311*", "numpy >=1.2 py311*"),
    "a compatible version": ("numpy~=1.2", "numpy ~=1.2"),
    "a name with everything": ("_Lib.x-y_z", "_lib.x-y_z"),
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_each_requirement_is_spelled_in_one_way(what: str) -> None:
    given_as, kept_as = SPELLINGS[what]
    assert listed(given_as).requirements == (kept_as,)


HOSTILE = {
    "a file": "file:///etc/passwd",
    "an archive": "https://host.example/x-1-0.conda",
    "an archive beside it": "x-1-0.tar.bz2",
    "a path": "./x",
    "a home": "~/x",
    "another channel": "elsewhere::x",
    "a channel of the operator's": "forge::x",
    "brackets": "x[version='>=1']",
    "a URL in brackets": "x[url=file:///etc/passwd]",
    "an option": "--override-channels",
    "two lines": "x\ny",
    "a NUL": "x\0y",
    "nothing": "",
    "no name": ">=1",
    "no version": "x >=",
    "too many words": "x 1 2 3",
    "a marker": "x ; sys_platform == 'linux'",
    "length": "x" + " " * 2000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_is_no_name_with_versions_is_refused_with_its_place(what: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^dependency 2: ") as refused:
        listed("fine", HOSTILE[what])
    assert HOSTILE[what].startswith(refused.value.details["requirement"].removesuffix("..."))


@given(st.text(max_size=60))
def test_what_is_kept_is_a_name_a_version_and_a_build(text: str) -> None:
    try:
        found = listed(text)
    except InvalidRequest:
        return
    for word in found.requirements[0].split(" "):
        assert word
        assert not set(word) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-+*=!<>~,|")
    assert listed(found.requirements[0]).requirements == found.requirements


def test_channels_are_the_operators_by_name_or_url_and_keep_their_order() -> None:
    assert listed("x").channels == ("forge", "own")
    assert listed("x", channels=("own", "forge", "own")).channels == ("own", "forge")
    assert listed("x", channels=("https://mirror.example/t/token/forge/", "nodefaults")).channels == ("forge",)
    assert listed("x", channels=("file:///srv/channels/own",)).channels == ("own",)


@pytest.mark.parametrize(
    "channel",
    ["elsewhere", "https://host.example/forge", "file:///etc", "defaults", "", "https://[", "https://a:b@c/d"],
)
def test_another_channel_is_refused_with_what_there_is_and_no_secret(channel: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^channel 1: .*is not allowed: the operator's are forge, own") as refused:
        listed("x", channels=(channel,))
    assert "hush" not in str(refused.value)
    assert "a:b" not in str(refused.value)


def test_a_controller_without_channels_has_no_conda() -> None:
    with pytest.raises(CapabilityUnavailable, match="conda:inline cannot be had: this controller has no conda channel"):
        require_channels("conda:inline", EnvironmentsConfig())
    require_channels("conda:inline", CONFIG)


@pytest.mark.parametrize(
    "channels", [("forge",), ("oci://host.example/x",), ("https://host.example",), ("https://a/x", "https://b/x/")]
)
def test_an_operators_channels_are_urls_that_can_be_told_apart(channels: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="channel"):
        CondaConfig(channels=channels)


def test_order_and_spelling_make_no_other_environment_and_channels_and_platform_do() -> None:
    python, other = (Interpreter(MARKERS, ("glibc", 2, minor)) for minor in (36, 31))
    name = name_of(listed("b", "A =1"), python)
    assert name == name_of(listed("a=1.*", "B *"), python)
    newer = Interpreter({**MARKERS, "python_full_version": "3.12.1"}, ("glibc", 2, 36))
    assert name == name_of(listed("b", "a=1"), newer)  # it brings its own
    assert name != name_of(listed("b", "a=1"), other)
    assert name != name_of(listed("b", "a=1", channels=("own", "forge")), python)
    assert name != name_of(listed("b"), python)


def test_an_environment_yml_is_read_and_its_numbers_stay_as_they_are_written() -> None:
    text = """
name: mine
channels: [forge, nodefaults]
dependencies:
  - python=3.10
  - numpy >=1.2
prefix: /somewhere/else
"""
    found = read_environment_yml(text, CONFIG)
    assert found == Definition("conda", ("numpy >=1.2", "python 3.10.*"), channels=("forge",))


BAD_YML = {
    "no YAML": ("a: ]\n", r"environment.yml, line 1 is no YAML"),
    "no mapping": ("- a", r"environment.yml is no mapping"),
    "nothing": ("", r"environment.yml is no mapping"),
    "a section of pip": ("dependencies:\n- a\n- pip:\n  - b\n", r"line 3: a section like pip is not supported"),
    "a tag": ("name: !!python/object/apply:os.system ['true']\n", r"line 1: tags are refused"),
    "a bomb": ("a: &a [x, x]\nb: &b [*a, *a]\n", r"line 1: anchors and aliases are refused"),
    "depth": ("a: " + "[" * 1000 + "]" * 1000, r"line 1: nested too deeply"),
    "two documents": ("name: a\n---\nname: b\n", r"line 2: nested too deeply, or more than one document"),
    "variables": ("name: a\nvariables: {A: b}\n", r"line 2: 'variables' is not supported"),
    "a list of numbers": ("dependencies: {a: b}", r"dependencies is no list"),
    "a list in the list": ("dependencies: [[a]]", r"no list of strings"),
    "another channel": ("channels:\n- elsewhere\ndependencies: [a]", r"line 2: the channel 'elsewhere' is not allowed"),
    "a URL": ("dependencies:\n- https://host.example/x.conda\n", r"line 2: .*names a place"),
    "too much": ("#" * 70_000, r"at most 65536 are allowed"),
    "too many": (f"dependencies: [{','.join(f'a{at}' for at in range(51))}]", r"at most 50 are allowed"),
    "a control character": ("name: \x07", r"is no YAML"),
}


@pytest.mark.parametrize("what", BAD_YML)
def test_a_bad_environment_yml_is_refused_with_the_line(what: str) -> None:
    text, said = BAD_YML[what]
    with pytest.raises(InvalidRequest, match=said):
        read_environment_yml(text, CONFIG)


PIXI = """
[workspace]
name = "mine"
channels = ["forge", {channel = "own"}]
platforms = ["linux-64"]

[dependencies]
python = "3.12.*"
Numpy = { version = ">=1.2,<3", build = "py*" }
any = "*"

[target.win-64.dependencies]
pywin32 = "*"

[feature.test.dependencies]
pytest = "*"

[tasks]
go = "python go.py"
"""


def test_a_pixi_toml_is_read() -> None:
    found = read_pixi(PIXI, CONFIG)
    assert found == Definition("conda", ("any", "numpy <3,>=1.2 py*", "python 3.12.*"), channels=("forge", "own"))


def test_the_older_name_of_pixis_table_is_read_too() -> None:
    assert read_pixi('[project]\nchannels = ["own"]\n[dependencies]\na = "*"\n', CONFIG).channels == ("own",)


BAD_PIXI = {
    "no TOML": ("a =", r"pixi.toml is no TOML"),
    "packages of PyPI": ('[pypi-dependencies]\nx = "*"\n', r"line 1: pypi-dependencies is not supported"),
    "dependencies of this platform": ('[target.linux-64.dependencies]\nx = "*"\n', r"line 1: target.linux-64"),
    "PyPI's of this platform": ('[target.unix.pypi-dependencies]\nx = "*"\n', r"target.unix.pypi-dependencies"),
    "features": ('[environments]\ndefault = ["cuda"]\n', r"line 2: features of the default"),
    "a path": ('[dependencies]\nx = { path = "../x" }\n', r"line 2: 'x' has 'path'"),
    "a repository": ('[dependencies]\nx = { git = "https://host.example/x" }\n', r"line 2: 'x' has 'git'"),
    "a channel of one's own": ('[dependencies]\nx = { version = "1", channel = "y" }\n', r"line 2: 'x' has 'channel'"),
    "a number": ("[dependencies]\nx = 1\n", r"line 2: 'x' is neither a version nor a table"),
    "a name that is none": ('[dependencies]\n"../x" = "*"\n', r"line 2: .*names a place"),
    "another channel": ('[workspace]\nchannels = ["z"]\n', r"line 2: the channel 'z' is not allowed"),
    "priorities": ('[workspace]\nchannels = [{channel = "own", priority = 1}]\n', r"line 2: a channel is a string"),
    "no table": ("dependencies = 1", r"dependencies is no table"),
    "too much": ("#" * 70_000, r"at most 65536 are allowed"),
}


@pytest.mark.parametrize("what", BAD_PIXI)
def test_a_bad_pixi_toml_is_refused_with_the_line(what: str) -> None:
    text, said = BAD_PIXI[what]
    with pytest.raises(InvalidRequest, match=said):
        read_pixi(text, CONFIG)


def test_what_is_prewarmed_is_the_operators() -> None:
    assert prewarmed(CONFIG) == Definition("conda", ("ipykernel", "python"), channels=("forge", "own"))
