"""Definitions of tools: what they may say, and where errors point."""

from __future__ import annotations

import os
import re
from pathlib import Path
from textwrap import dedent

import pytest

from cellyard.codemode.errors import StorageError, ToolDefinitionError
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.tools import read_folder
from cellyard.codemode.tools.command_lines import command_line
from cellyard.codemode.tools.definitions import CliDefinition, HttpDefinition, McpDefinition
from cellyard.codemode.tools.loading import load
from cellyard.codemode.tools.parsing import BadDefinition, parse


def stored(text: str, name: str = "t") -> StoredTool:
    return StoredTool(name, dedent(text).encode(), f"tools/{name}.yaml")


def refused(text: str) -> str:
    with pytest.raises(BadDefinition) as caught:
        parse(stored(text))
    assert isinstance(caught.value.error, ToolDefinitionError)
    return caught.value.error.message


def test_little_is_needed() -> None:
    definition = parse(stored("name: jq"))
    assert isinstance(definition, CliDefinition)
    assert definition.argv == ["jq"]
    assert definition.timeout == 60.0
    assert definition.end_of_options
    assert not definition.recipes


def test_a_command_may_be_a_list() -> None:
    definition = parse(stored("name: log\ncommand: [git, --no-pager, log]\ntags: [vcs]"))
    assert isinstance(definition, CliDefinition)
    assert definition.argv == ["git", "--no-pager", "log"]
    assert definition.tags == ["vcs"]


def test_short_names_of_types_are_known() -> None:
    definition = parse(stored("name: t\nschema: {options: {a: {type: int}, b: {type: bool}, c: {type: str}}}"))
    assert isinstance(definition, CliDefinition)
    assert [each.type for each in definition.schema_.options.values()] == ["integer", "boolean", "string"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nam: x\n", "tools/t.yaml:1: nam: no such field"),
        ("type: cli\n", "tools/t.yaml:1: name is missing"),
        ("[]\n", "tools/t.yaml:1: a tool's definition is a mapping"),
        ("", "tools/t.yaml:1: a tool's definition is a mapping"),
        ("name: t\ntype: soap\n", "tools/t.yaml:2: type: 'soap' is none of cli, http, mcp"),
        ("name: t\ntype: [cli]\n", "tools/t.yaml:2: type: ['cli'] is none of"),
        ("name: t\n\ntimeout: 0\n", "tools/t.yaml:3: timeout: "),
        ("name: t\ntimeout: .inf\n", "tools/t.yaml:2: timeout: "),
        ("name: t\ntimeout: '5'\n", "tools/t.yaml:2: timeout: "),
        ("name: t\nargs: '-x {y}'\n", "tools/t.yaml:2: args: no such field"),
        ("name: t\ncommand: ''\n", "tools/t.yaml:2: command: "),
        ("name: t\nschema:\n  options:\n    --a: {}\n", "tools/t.yaml:4: schema.options.--a: '--a' is no flag"),
        ("name: t\nschema:\n  options:\n    a: {short: -a}\n", "tools/t.yaml:4: schema.options.a.short: "),
        ("name: t\nschema:\n  options:\n    a-b: {}\n    a_b: {}\n", "tools/t.yaml:2: schema: 'a_b' and 'a-b' cannot"),
        ("name: t\nrecipes:\n  r:\n    preset:\n      q: 1\n", "tools/t.yaml:5: recipes.r.preset.q: the schema has no"),
        (
            "name: t\nrecipes:\n  r:\n    params:\n      q: {}\n",
            "tools/t.yaml:5: recipes.r.params.q: the schema has no",
        ),
        (
            "name: t\nenv:\n  A: ${NO_SUCH_VARIABLE}\n",
            "tools/t.yaml:3: env.A: the environment variable NO_SUCH_VARIABLE",
        ),
        ("name: t\nenv:\n  A=B: x\n", "tools/t.yaml:2: env: 'A=B' is no name"),
        ("name: t\ntype: http\nbase_url: ftp://x\nendpoints: {a: {path: /}}\n", "tools/t.yaml:3: base_url: no address"),
        ("name: t\ntype: http\nbase_url: http://u:p@x\nendpoints: {a: {path: /}}\n", "tools/t.yaml:3: base_url: "),
        ("name: t\ntype: http\nbase_url: http://x\nendpoints: {}\n", "tools/t.yaml:4: endpoints: "),
        (
            "name: t\ntype: http\nbase_url: http://x\nendpoints:\n  a:\n    path: /{b}\n",
            "tools/t.yaml:6: endpoints.a.path: {b} is none of params",
        ),
        (
            "name: t\ntype: http\nbase_url: http://x\nendpoints:\n"
            "  a:\n    path: /\n    params:\n      b: {in: path}\n",
            "tools/t.yaml:8: endpoints.a.params.b.in: path, but the path is /",
        ),
        (
            "name: t\ntype: http\nbase_url: http://x\nheaders: {X-Key: s}\nendpoints:\n"
            "  a:\n    path: /\n    params:\n      x-key: {in: header}\n",
            "tools/t.yaml:9: endpoints.a.params.x-key: a header that is set already",
        ),
        ("name: t\ntype: mcp\n", "tools/t.yaml:1: command is missing"),
        ("name: t\ntype: mcp\ntransport: http\ncommand: x\nurl: http://x\n", "tools/t.yaml:4: command: not with"),
        ("name: t\ntype: mcp\ntransport: http\nurl: x\n", "tools/t.yaml:4: url: no address"),
    ],
)
def test_errors_point_at_file_and_line(text: str, says: str) -> None:
    assert says in refused(text)


def test_all_errors_of_a_definition_are_told_at_once() -> None:
    assert refused("name: t\nfoo: 1\nbar: 2\n").splitlines() == [
        "tools/t.yaml:2: foo: no such field",
        "tools/t.yaml:3: bar: no such field",
    ]


def test_a_recipe_may_be_called_as_a_method_of_all_tools() -> None:
    assert parse(stored("name: t\nrecipes: {search: {}}\n")).name == "t"
    assert "t.yaml:1: name" in refused("name: search\n")


@pytest.mark.parametrize("name", ["class", "list", "_x", "__init__", "1a", "a-b", "é", "", "a" * 65, "a b"])
def test_names_that_cannot_be_called_or_shadow_are_refused(name: str) -> None:
    assert "t.yaml:1: name" in refused(f"name: '{name}'\n")
    assert "t.yaml:3: recipes." in refused(f"name: t\nrecipes:\n  '{name}': {{}}\n")
    assert "t.yaml:5: endpoints." in refused(
        f"name: t\ntype: http\nbase_url: http://x\nendpoints:\n  '{name}': {{path: /}}\n"
    )


def test_secrets_come_from_the_environment_and_are_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CY_TEST_TOKEN", "s3cr3t")
    text = "name: t\ntype: http\nbase_url: http://x\nheaders: {Authorization: 'Bearer ${CY_TEST_TOKEN}'}\n"
    definition = parse(stored(text + "endpoints: {a: {path: /}}\n"))
    assert isinstance(definition, HttpDefinition)
    assert definition.headers == {"Authorization": "Bearer s3cr3t"}
    assert "s3cr3t" not in repr(definition)
    monkeypatch.setenv("CY_TEST_TOKEN", "s3cr3t\r\nX: y")
    message = refused(text + "endpoints: {a: {path: /}}\n")
    assert "tools/t.yaml:4: headers: the value of Authorization holds characters" in message
    assert "s3cr3t" not in message


def test_an_mcp_server_over_stdio_or_http() -> None:
    local = parse(stored("name: m\ntype: mcp\ncommand: uvx\nargs: [server]\nenv: {A: b}\n"))
    far = parse(stored("name: m\ntype: mcp\ntransport: http\nurl: http://x/mcp\nheaders: {A: b}\n"))
    assert isinstance(local, McpDefinition)
    assert isinstance(far, McpDefinition)
    assert (local.transport, far.transport) == ("stdio", "http")


def test_of_two_tools_with_one_name_the_first_is_taken() -> None:
    loaded = load([stored("name: t\ncommand: one", "a"), stored("name: t\ncommand: two", "b"), stored("name: u", "c")])
    assert sorted(loaded.definitions) == ["t", "u"]
    assert loaded.definitions["t"][0].name == "a"
    assert [str(each) for each in loaded.problems] == [
        "tools/b.yaml:1: name: tools/a.yaml defines a tool t already, which is the one taken"
    ]


def test_one_bad_definition_costs_no_other() -> None:
    loaded = load([stored("name: [", "a"), stored("name: good", "b"), stored("name: c\nx: 1", "c")])
    assert sorted(loaded.definitions) == ["good"]
    assert sorted(loaded.bad) == ["a", "c"]
    assert len(loaded.problems) == 2


def test_a_folder_gives_its_yaml_files_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yaml", "c.yml", "d.txt", ".hidden.yaml"):
        (tmp_path / name).write_text("name: x\n")
    (tmp_path / "folder.yaml").mkdir()
    found = read_folder(tmp_path)
    assert [each.name for each in found] == ["a", "b"]
    assert found[0].path == str(tmp_path / "a.yaml")
    assert read_folder(tmp_path / "nothing") == []


def test_of_a_file_that_is_too_large_only_the_problem_is_kept(tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(b"name: big\ndescription: " + b"x" * 10_000_000)
    (tmp_path / "good.yaml").write_text("name: good\n")
    found = read_folder(tmp_path)
    assert max(len(each.text) for each in found) < 1_100_000
    loaded = load(found)
    assert sorted(loaded.definitions) == ["good"]
    assert "big.yaml:1: larger than 1 MiB" in str(loaded.problems[0])


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "lost.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "good.yaml").write_text("name: good\n")
    loaded = load(read_folder(tmp_path))
    assert sorted(loaded.definitions) == ["good"]
    assert [str(each) for each in loaded.problems] == [
        f"{tmp_path}/lost.yaml:1: it cannot be read: No such file or directory",
        f"{tmp_path}/pipe.yaml:1: no regular file",
    ]
    with pytest.raises(StorageError, match="cannot be read"):
        read_folder(__file__)


def test_the_definitions_of_the_documentation_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_TOKEN", "token")
    page = Path(__file__).parents[3].joinpath("docs/code-mode-tools.md").read_text()
    loaded = load([stored(text, f"t{n}") for n, text in enumerate(re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))])
    assert not loaded.problems
    assert list(loaded.definitions) == ["curl", "store", "files"]
    curl = loaded.definitions["curl"][1]
    assert isinstance(curl, CliDefinition)
    assert command_line(curl, "get", {"url": "http://host/"}) == ["curl", "-s", "--max-time", "10", "http://host/"]
