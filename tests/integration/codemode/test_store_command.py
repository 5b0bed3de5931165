"""`cellyard store`: listing, comparing and copying between folders and Redis, as a person and as a script see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.redis_server import RedisServer
from typer.testing import CliRunner, Result

from cellyard.cli.app import app
from cellyard.codemode.storage.file import FileStorage
from cellyard.codemode.storage.protocols import StorageBackend, StoredTool
from cellyard.codemode.storage.redis import RedisStorage

SOURCE = '"""Greets."""\ndef run(name): pass\n'


@pytest.fixture(scope="module")
def server(module_folder: Path) -> Iterator[RedisServer]:
    running = RedisServer(module_folder)
    yield running
    running.close()


@pytest.fixture
def url(server: RedisServer) -> str:
    """A Redis with nothing in it."""
    with RedisStorage(server.url).client as client:
        client.flushall()
    return server.url


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with something of everything."""
    fill(FileStorage(tmp_path / "source"))
    return tmp_path / "source"


def fill(storage: StorageBackend) -> None:
    storage.get_workflow_library().create("greet", SOURCE, "Says hello")
    storage.get_workflow_library().create("other", SOURCE)
    storage.get_artifact_store().save("a/data.json", {"n": [1, None]}, "Numbers", {"by": "me"})
    storage.get_artifact_store().save("large", b"\xff" * (5 << 20))
    storage.get_artifact_store().save("text", "grün")
    storage.get_tool_store().put(StoredTool("curl", b"name: curl\n", ""))
    storage.get_deps_store().put("six>=1")


def store(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["store", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


ALL = ["workflows  greet", "workflows  other", "artifacts  a/data.json", "artifacts  large", "artifacts  text"]
ALL += ["tools  curl", "deps  six"]


def test_a_place_is_listed(source: Path) -> None:
    lines = store("list", source).stdout.splitlines()
    assert lines[:5] == [
        "workflows  greet  Says hello",
        "workflows  other",
        "artifacts  a/data.json  Numbers",
        "artifacts  large",
        "artifacts  text",
    ]
    assert lines[5:] == [f"tools  curl  {source}/tools/curl.yaml", "deps  six  six>=1"]
    chosen = store("list", source, "--type", "deps", "--type", "tools").stdout.splitlines()
    assert [line.split()[0] for line in chosen] == ["tools", "deps"]


def test_a_list_as_json_has_all_that_is_known(source: Path) -> None:
    found: list[dict[str, Any]] = json.loads(store("list", source, "--json").stdout)
    assert found[0] == {"type": "workflows", "name": "greet", "description": "Says hello"}
    created = found[2].pop("created_at")
    assert created.endswith("+00:00")
    assert found[2] == {
        "type": "artifacts",
        "name": "a/data.json",
        "description": "Numbers",
        "metadata": {"by": "me"},
        "data_type": "json",
        "size": 32,
    }
    assert found[-1] == {"type": "deps", "name": "six", "requirement": "six>=1"}
    assert json.loads(store("list", source, "--workspace", "none", "--json", "--type", "artifacts").stdout) == []


def test_all_goes_to_redis_and_back(source: Path, url: str, tmp_path: Path) -> None:
    assert store("diff", source, url, code=1).stdout.splitlines() == [f"+ {each}" for each in ALL]
    assert store("copy", source, url).stdout.splitlines() == [f"copied  {each}" for each in ALL]
    assert store("diff", source, url).stdout.splitlines() == [f"= {each}" for each in ALL]
    assert store("copy", source, url).stdout.splitlines() == [f"unchanged  {each}" for each in ALL]
    back = tmp_path / "new" / "back"
    assert store("copy", url, back).stdout.splitlines() == [f"copied  {each}" for each in ALL]
    store("diff", source, back)
    mine, theirs = FileStorage(source), FileStorage(back)
    for info in mine.get_artifact_store().list():
        copied = theirs.get_artifact_store().get(info.name)
        assert copied is not None
        assert (copied.description, copied.metadata, copied.type) == (info.description, info.metadata, info.type)
        assert theirs.get_artifact_store().load(info.name) == mine.get_artifact_store().load(info.name)
    assert theirs.get_workflow_store().list() == mine.get_workflow_store().list()


def test_what_differs_is_marked_and_replaced_only_when_told(source: Path, url: str) -> None:
    store("copy", source, url)
    other = RedisStorage(url)
    other.get_workflow_library().create("greet", SOURCE, "Says goodbye")
    other.get_artifact_store().save("large", b"\xfe" * (5 << 20))
    other.get_artifact_store().save("text", "grün", metadata={"other": 1})
    other.get_artifact_store().save("additional", 1)
    other.get_deps_store().put("six==2")
    FileStorage(source).get_tool_store().put(StoredTool("jq", b"name: jq\n", ""))
    marks = store("diff", source, url, code=1).stdout.splitlines()
    assert marks == [
        "~ workflows  greet",
        "= workflows  other",
        "= artifacts  a/data.json",
        "- artifacts  additional",
        "~ artifacts  large",
        "~ artifacts  text",
        "= tools  curl",
        "+ tools  jq",
        "~ deps  six",
    ]
    refused = store("copy", source, url, code=4)
    assert refused.stdout == ""
    assert "TO has another one: workflows greet" in refused.stderr
    assert "nothing was copied: --overwrite replaces" in refused.stderr
    assert [each.name for each in other.get_tool_store().list()] == ["curl"]

    would = store("copy", source, url, "--dry-run", code=1).stdout.splitlines()
    assert would[0] == "would refuse  workflows  greet: TO has another one, and --overwrite is not given"
    assert "would copy  tools  jq" in would
    would = store("copy", source, url, "--dry-run", "--overwrite").stdout.splitlines()
    assert [line for line in would if line.startswith("would")] == [
        "would replace  workflows  greet",
        "would replace  artifacts  large",
        "would replace  artifacts  text",
        "would copy  tools  jq",
        "would replace  deps  six",
    ]
    assert store("diff", source, url, code=1).stdout.splitlines() == marks

    assert "copied  tools  jq" in store("copy", source, url, "--type", "tools").stdout
    assert store("copy", source, url, "--name", "text", "--overwrite").stdout == "replaced  artifacts  text\n"
    done = json.loads(store("copy", source, url, "--overwrite", "--json").stdout)
    assert {each["name"] for each in done if each["done"] == "replaced"} == {"greet", "large", "six"}
    assert store("diff", source, url, code=1).stdout.splitlines()[3] == "- artifacts  additional"
    assert other.get_artifact_store().load("additional") == 1
    assert other.get_deps_store().list() == ["six>=1"]


def test_a_dry_run_makes_no_folder(source: Path, tmp_path: Path) -> None:
    assert "would copy  tools  curl" in store("copy", source, tmp_path / "none", "--dry-run").stdout
    assert not (tmp_path / "none").exists()


def test_workspaces_and_prefixes_are_named_for_both_ends_or_for_each(source: Path, url: str) -> None:
    store("copy", source, url, "--to-workspace", "team", "--to-prefix", "mine", "--type", "workflows")
    storage = RedisStorage(url, prefix="mine", workspace_id="team")
    assert [each.name for each in storage.get_workflow_library().list()] == ["greet", "other"]
    assert store("list", url, "--prefix", "mine").stdout == ""
    team = ("--workspace", "team", "--prefix", "mine", "--type", "workflows")
    assert len(store("list", url, *team).stdout.splitlines()) == 2
    store("diff", url, source, *team, "--to-workspace", "")
    store("diff", url, source, *team, code=1)
    assert "workspace_id" in store("list", url, "--workspace", "../x", code=2).stderr


def test_what_the_other_place_refuses_is_told_and_the_rest_is_copied(source: Path, url: str) -> None:
    (source / "workflows/broken.py").write_text("def run(:\n")
    RedisStorage(url).get_artifact_store().save("a", "an artifact where a folder is needed")
    result = store("copy", source, url, code=1)
    lines = result.stdout.splitlines()
    (broken,) = [line for line in lines if "broken" in line]
    assert broken.startswith("refused  workflows  broken: Syntax error in workflow code")
    (below,) = [line for line in lines if "a/data.json" in line]
    assert below.startswith("refused  artifacts  a/data.json: 'a' is an artifact")
    assert sum(line.startswith("copied") for line in lines) == 6
    failed = json.loads(store("copy", source, url, "--json", code=1).stdout)
    assert sorted(each["name"] for each in failed if each["error"]) == ["a/data.json", "broken"]


def test_names_and_types_that_are_not_there_are_usage_errors(source: Path, url: str) -> None:
    assert "nothing called missing" in store("copy", source, url, "--name", "missing", "--name", "greet", code=2).stderr
    assert store("list", url).stdout == ""
    assert "types" not in store("list", source, "--type", "typo", code=2).stdout


def test_places_that_are_not_there_are_told(source: Path, tmp_path: Path) -> None:
    assert "is no folder" in store("list", tmp_path / "none", code=2).stderr
    assert "is no folder" in store("copy", tmp_path / "none", source, code=2).stderr
    assert "is no folder" in store("diff", source, tmp_path / "none", code=2).stderr
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    store("list", tmp_path / "file", code=4)
    assert "NO_SUCH_PLACE holds no place" in store("list", "env:NO_SUCH_PLACE", code=2).stderr
    away = store("diff", source, f"unix://{tmp_path}/none.sock", code=4)
    assert "cannot be reached" in away.stderr


def test_a_place_may_come_from_the_environment(source: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_STORE_URL", url)
    store("copy", source, "env:CELLYARD_STORE_URL")
    store("diff", source, url)


@pytest.mark.parametrize(
    "place",
    [
        "redis://user:hidden@127.0.0.1:1/0",
        "redis://user:hidden@127.0.0.1:port/0",
        "redis://user:hidden@127.0.0.1:1/0?no_such=1",
        "rediss://:hidden@127.0.0.1:1",
        "unix://:hidden@/nowhere.sock",
        "Redis://:hidden@127.0.0.1:1",
        "http://user:hidden@127.0.0.1",
        "user:hidden@127.0.0.1",
    ],
)
def test_no_password_is_ever_printed(source: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", place)
    for given in (place, "env:PLACE"):
        for arguments in (("list", given), ("diff", source, given), ("copy", given, source)):
            result = CliRunner().invoke(app, ["store", *map(str, arguments)])
            assert result.exit_code in (2, 4)
            assert "hidden" not in result.output + result.stderr
            assert isinstance(result.exception, SystemExit)


def test_what_people_wrote_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    storage = FileStorage(tmp_path)
    storage.get_artifact_store().save("v", 1, "\x1b[31mred\x1b]0;title\x07\nsecond")
    listed = store("list", tmp_path).stdout
    assert listed == "artifacts  v  \\x1b[31mred\\x1b]0;title\\x07\n"


def test_a_place_that_goes_away_within_a_copy_leaves_an_account(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellyard.cli import store as command

    server, copied = RedisServer(folder), 0
    copy = command.copy

    def dying(*arguments: Any) -> None:
        nonlocal copied
        if copied == 3:
            server.kill()
        copy(*arguments)
        copied += 1

    monkeypatch.setattr(command, "copy", dying)
    result = store("copy", source, server.url, code=4)
    assert result.stdout.splitlines() == [f"copied  {each}" for each in ALL[:3]]
    assert "4 of 7 were not reached" in result.stderr
    assert "cannot be reached" in result.stderr
    monkeypatch.undo()
    server.start()
    again = store("copy", source, server.url).stdout.splitlines()
    assert again == [f"unchanged  {each}" for each in ALL[:3]] + [f"copied  {each}" for each in ALL[3:]]
    server.close()


def test_it_is_a_program_of_its_own(source: Path, url: str) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cellyard.cli", "store", *arguments]
        environment = {**os.environ, "PLACE": url}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert (done := run("copy", str(source), "env:PLACE", "--json")).returncode == 0, done
    assert {each["done"] for each in json.loads(done.stdout)} == {"copied"}
    FileStorage(source).get_deps_store().put("numpy")
    assert (done := run("diff", str(source), "env:PLACE", "--type", "deps")).returncode == 1, done
    assert done.stdout == "+ deps  numpy\n= deps  six\n"
    away = run("list", "unix://:hidden@/nowhere.sock")
    assert (away.returncode, away.stdout, away.stderr.count("\n")) == (4, "", 1)
    assert "hidden" not in away.stderr
