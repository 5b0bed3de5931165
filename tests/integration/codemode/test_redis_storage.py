"""What is particular to Redis: clients that are given, what others left there, a server that goes and comes back."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.redis_server import RedisServer

from cellyard.codemode.errors import ArtifactNameError, StorageError
from cellyard.codemode.storage import redis_link
from cellyard.codemode.storage.protocols import StoredTool
from cellyard.codemode.storage.redis import RedisStorage
from cellyard.errors import CapabilityUnavailable, InvalidRequest

SOURCE = '"""Greets."""\ndef run(name: str = "x"): pass\n'
MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(module_folder: Path) -> Iterator[RedisServer]:
    """A server that stays up for the whole module."""
    server = RedisServer(module_folder)
    yield server
    server.close()


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """The same, empty."""
    with redis.Redis.from_url(shared.url) as client:
        client.flushall()
    return shared


@pytest.fixture
def storage(server: RedisServer) -> Iterator[RedisStorage]:
    opened = RedisStorage(server.url)
    yield opened
    opened.close()


@pytest.fixture
def mortal(folder: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill it."""
    server = RedisServer(folder)
    yield server
    server.close()


# Clients


def test_exactly_one_of_url_and_client_is_taken(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        for call in (RedisStorage, lambda: RedisStorage(server.url, client)):
            with pytest.raises(InvalidRequest, match="exactly one of url and redis") as refused:
                call()
            assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://u:hidden@host",
        "host:6379",
        "redis://u:hidden@host:port/0",
        "redis://u:hidden@host/0?socket_timeout=soon",
        "redis://u:hidden@host/0?no_such_option=1",
        "redis://u:hidden@[::1/0",
        5,
        b"redis://u:hidden@host",
    ],
    ids=repr,
)
def test_a_url_that_is_none_is_refused_without_its_password(url: Any) -> None:
    with pytest.raises(InvalidRequest, match="redis://") as refused:
        RedisStorage(url)
    assert "hidden" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_only_synchronous_clients_are_taken() -> None:
    with pytest.raises(InvalidRequest, match=r"not redis\.asyncio\.Redis"):
        RedisStorage(redis=redis.asyncio.Redis())
    with pytest.raises(InvalidRequest, match="not str"):
        RedisStorage(redis="redis://")


@pytest.mark.parametrize("prefix", ["", "a\nb", "x" * 201, None])
def test_a_wrong_prefix_is_refused(prefix: Any) -> None:
    with pytest.raises(InvalidRequest, match="prefix"):
        RedisStorage("redis://localhost", prefix=prefix)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(redis_link, "import_module", missing)
    with pytest.raises(CapabilityUnavailable, match=r"pip install 'cellyard\[codemode\]'"):
        RedisStorage("redis://localhost")


@pytest.mark.parametrize("decode", [False, True], ids=["bytes", "decoding"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_client_that_is_given_works_however_it_was_made(
    server: RedisServer, decode: bool, protocol: int, encoding: str
) -> None:
    with redis.Redis.from_url(server.url, decode_responses=decode, protocol=protocol, encoding=encoding) as client:
        storage = RedisStorage(redis=client, prefix="gegeben-ü")
        assert (storage.client, storage.prefix) == (client, "gegeben-ü")
        artifacts, library = storage.get_artifact_store(), storage.get_workflow_library()
        for value in (b"\xff\x00", "grün", {"a": [1, None]}, b"\xfe" * (9 * MIB)):
            saved = artifacts.save("ü/v", value, "Größe")
            assert artifacts.load("ü/v") == value
            assert artifacts.list() == [saved]
        made = library.create("w", SOURCE, "Größe")
        assert library.list() == [made]
        assert library.get("w") == made
        storage.get_tool_store().put(StoredTool("t", b"\xff", ""))
        assert [each.text for each in storage.get_tool_store().list()] == [b"\xff"]
        storage.get_deps_store().put("six")
        assert storage.get_deps_store().list() == ["six"]
        with pytest.raises(ArtifactNameError):
            artifacts.save("ü", 1)
        artifacts.delete("ü/v")
        assert library.remove("w")
        storage.close()
        assert client.ping()  # it is not ours to close


# What lies there


def test_others_can_read_what_lies_there(server: RedisServer, storage: RedisStorage) -> None:
    storage.get_workflow_library().create("greet", SOURCE)
    storage.get_artifact_store().save("a/b.json", {"n": 1}, "Numbers", {"by": "me"})
    RedisStorage(server.url, workspace_id="team").get_artifact_store().save("x", "y")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        workflow = json.loads(str(client.hget("cellyard:workflows:__workflows__", "greet")))
        assert (workflow["name"], workflow["description"], workflow["source"]) == ("greet", "Greets.", SOURCE)
        assert [each["name"] for each in workflow["parameters"]] == ["name"]
        assert client.get("cellyard:artifacts:a/b.json") == '{\n  "n": 1\n}'
        entry = json.loads(str(client.hget("cellyard:artifacts:__index__", "a/b.json")))
        assert (entry["description"], entry["metadata"]) == ("Numbers", {"by": "me", "_data_type": "json"})
        assert client.get("cellyard:ws:team:artifacts:x") == "y"


def test_what_another_program_left_is_read(server: RedisServer, storage: RedisStorage) -> None:
    with redis.Redis.from_url(server.url) as client:
        workflow = {"name": "w", "description": "theirs", "source": SOURCE, "parameters": []}
        client.hset("cellyard:workflows:__workflows__", "w", json.dumps(workflow))
        client.set("cellyard:artifacts:v", "[1]")
        entry = {"description": "theirs", "created_at": "2024-05-06T07:08:09", "metadata": {"_data_type": "json"}}
        client.hset("cellyard:artifacts:__index__", "v", json.dumps(entry))
    (found,) = storage.get_workflow_library().list()
    assert found.description == "theirs"
    (info,) = storage.get_artifact_store().list()
    assert (info.size, info.metadata, info.created_at.isoformat()) == (3, {}, "2024-05-06T07:08:09+00:00")
    assert storage.get_artifact_store().load("v") == [1]


@pytest.mark.parametrize(
    "damage", ["{", "[]", "5", "null", '{"source": 5}', '{"created_at": 5}', "[" * 100_000], ids=range(7)
)
def test_what_is_damaged_is_told_and_the_rest_is_there(
    server: RedisServer, storage: RedisStorage, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage.get_workflow_library().create("good", SOURCE)
    storage.get_artifact_store().save("good", 1)
    with redis.Redis.from_url(server.url) as client:
        for name in ("bad", "\udcff".encode(errors="surrogateescape"), "../climbs"):
            client.hset("cellyard:workflows:__workflows__", name, damage)
            client.hset("cellyard:artifacts:__index__", name, damage)
        client.hset("cellyard:tools:__tools__", "../climbs", "x")
    assert [each.name for each in storage.get_workflow_library().list()] == ["good"]
    assert [each.name for each in storage.get_artifact_store().list()] == ["good"]
    assert storage.get_tool_store().list() == []
    assert caplog.text.count("left out") == 7
    for call in (
        lambda: storage.get_workflow_library().get("bad"),
        lambda: storage.get_artifact_store().get("bad"),
        lambda: storage.get_artifact_store().load("bad"),
    ):
        with pytest.raises(StorageError, match="damaged"):
            call()
    storage.get_artifact_store().save("bad", 2)
    assert storage.get_artifact_store().load("bad") == 2


def test_keys_of_another_type_and_contents_that_are_gone_are_told(server: RedisServer, storage: RedisStorage) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", 1)
    artifacts.save("large", b"x" * (5 * MIB))
    with redis.Redis.from_url(server.url) as client:
        client.delete("cellyard:artifacts:v", *client.keys("cellyard:artifact-pieces:*"))
        client.set("cellyard:workflows:__workflows__", "text")
    with pytest.raises(StorageError, match="is gone"):
        artifacts.load("v")
    with pytest.raises(StorageError, match="is gone"):
        artifacts.load("large")
    with pytest.raises(StorageError, match="WRONGTYPE") as refused:
        storage.get_workflow_library().list()
    assert not refused.value.retryable
    assert str(server.socket) in str(refused.value)


def test_pieces_go_with_what_they_are_pieces_of(server: RedisServer, storage: RedisStorage) -> None:
    artifacts = storage.get_artifact_store()
    with redis.Redis.from_url(server.url) as client:

        def pieces() -> list[int]:
            """Seconds for which each large content stays, -1 for ever."""
            return sorted(int(client.ttl(key)) for key in client.keys("cellyard:artifact-pieces:*"))

        artifacts.save("v", b"a" * (9 * MIB))
        assert pieces() == [-1]
        artifacts.save("v", b"b" * (9 * MIB))
        gone, stays = pieces()
        assert (gone, stays) == (-1, stays)
        assert 0 < stays <= 120
        artifacts.save("v", "small")
        assert min(pieces()) > 0
        artifacts.save("v", b"c" * (9 * MIB))
        assert min(pieces()) == -1
        artifacts.delete("v")
        assert min(pieces()) > 0
        assert client.keys("cellyard:artifact-pieces") == []
        client.flushall()

        def breaking() -> Iterator[bytes]:
            yield b"x" * (9 * MIB)
            assert min(pieces()) > 0  # nobody would remove them, should we end here
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            artifacts.write("v", "bytes", breaking())
        assert pieces() == []
        artifacts.save("v", 1)
        with pytest.raises(ArtifactNameError):
            artifacts.save("v/w", b"x" * (9 * MIB))
        assert pieces() == []


def test_a_reader_whose_pieces_are_gone_is_told_and_gets_no_mixture(server: RedisServer, storage: RedisStorage) -> None:
    artifacts = storage.get_artifact_store()
    artifacts.save("v", b"a" * (9 * MIB))
    _, pieces = artifacts.read("v")
    assert next(pieces) == b"a" * MIB
    artifacts.save("v", b"b" * (9 * MIB))
    with redis.Redis.from_url(server.url) as client:
        for key in client.keys("cellyard:artifact-pieces:*"):
            if client.ttl(key) != -1:
                client.delete(key)
    with pytest.raises(StorageError, match="written again") as told:
        next(pieces)
    assert told.value.retryable


def test_no_room_is_told_and_the_old_content_stays(folder: Path) -> None:
    server = RedisServer(folder, "--maxmemory", "24mb", "--maxmemory-policy", "noeviction")
    try:
        artifacts = RedisStorage(server.url).get_artifact_store()
        artifacts.save("v", "old", "kept")
        for value in (b"x" * (64 * MIB), b"y" * (64 * MIB)):
            with pytest.raises(StorageError, match="maxmemory") as full:
                artifacts.save("v", value)
            assert full.value.retryable
        assert artifacts.load("v") == "old"
        assert [each.description for each in artifacts.list()] == ["kept"]
        artifacts.save("w", b"z" * (2 * MIB))  # what could not be finished takes no room
    finally:
        server.close()


# A server that asks who is there


def test_no_password_is_ever_said(folder: Path) -> None:
    server = RedisServer(folder, "--requirepass", "hidden-word")
    try:
        right = RedisStorage(f"unix://:hidden-word@{server.socket}")
        right.get_artifact_store().save("v", 1)
        assert right.get_artifact_store().load("v") == 1
        wrong = RedisStorage(f"unix://:hidden-wrong@{server.socket}")
        missing = RedisStorage(server.url)
        for storage in (wrong, missing):
            with pytest.raises(StorageError) as refused:
                storage.get_artifact_store().load("v")
            assert not refused.value.retryable
            assert "hidden" not in str(refused.value)
            assert "hidden" not in repr(storage)
        server.kill()
        with pytest.raises(StorageError, match="cannot be reached") as away:
            right.get_artifact_store().load("v")
        assert "hidden" not in str(away.value) + repr(right)
    finally:
        server.close()


# A server that goes away


def everything(storage: RedisStorage) -> list[Callable[[], object]]:
    artifacts, library = storage.get_artifact_store(), storage.get_workflow_library()
    tools, deps = storage.get_tool_store(), storage.get_deps_store()
    return [
        artifacts.list,
        lambda: artifacts.load("v"),
        lambda: artifacts.get("v"),
        lambda: artifacts.save("v", 1),
        lambda: artifacts.save("v", b"x" * (9 * MIB)),
        lambda: artifacts.delete("v"),
        library.list,
        lambda: library.get("w"),
        lambda: library.create("w", SOURCE),
        lambda: library.remove("w"),
        tools.list,
        lambda: tools.put(StoredTool("t", b"", "")),
        lambda: tools.remove("t"),
        deps.list,
        lambda: deps.put("six"),
        lambda: deps.remove("six"),
    ]


def test_a_server_that_is_away_is_told_and_all_is_there_when_it_is_back(mortal: RedisServer) -> None:
    storage = RedisStorage(mortal.url)
    storage.get_artifact_store().save("v", "kept")
    storage.get_artifact_store().save("large", b"l" * (9 * MIB))
    storage.get_workflow_library().create("w", SOURCE, "kept")
    mortal.kill()
    for call in everything(storage):
        with pytest.raises(StorageError, match="cannot be reached") as away:
            call()
        assert away.value.retryable
        assert str(mortal.socket) in str(away.value)
    mortal.start()
    assert storage.get_artifact_store().load("v") == "kept"
    assert storage.get_artifact_store().load("large") == b"l" * (9 * MIB)
    assert [each.description for each in storage.get_workflow_library().list()] == ["kept"]


def test_a_server_that_was_started_anew_meanwhile_is_not_even_noticed(mortal: RedisServer) -> None:
    storage = RedisStorage(mortal.url)
    storage.get_artifact_store().save("v", "kept")
    for call in everything(storage):
        mortal.kill()
        mortal.start()
        call()


def test_a_server_that_goes_away_within_a_writing_leaves_the_old_content(mortal: RedisServer) -> None:
    storage = RedisStorage(mortal.url)
    artifacts = storage.get_artifact_store()
    artifacts.save("v", "old", "kept")

    def dying() -> Iterator[bytes]:
        yield b"x" * (9 * MIB)
        mortal.kill()
        yield b"y" * (9 * MIB)

    with pytest.raises(StorageError) as away:
        artifacts.write("v", "bytes", dying())
    assert away.value.retryable
    mortal.start()
    assert [each.description for each in artifacts.list()] == ["kept"]
    assert artifacts.load("v") == "old"
    with redis.Redis.from_url(mortal.url) as client:
        assert all(int(client.ttl(key)) > 0 for key in client.keys("*artifact-pieces:*"))

    def interrupted() -> Iterator[bytes]:
        yield b"x" * (9 * MIB)
        mortal.kill()
        mortal.start()
        yield b"y" * (9 * MIB)

    artifacts.write("v", "bytes", interrupted(), "new")
    assert artifacts.load("v") == b"x" * (9 * MIB) + b"y" * (9 * MIB)


def test_a_server_that_forgets_what_was_sent_is_told_and_nobody_sees_a_part(folder: Path) -> None:
    server = RedisServer(folder, "--appendonly", "no")
    try:
        storage = RedisStorage(server.url)
        artifacts = storage.get_artifact_store()
        artifacts.save("v", b"old" * (3 * MIB))
        _, pieces = artifacts.read("v")
        next(pieces)

        def forgotten() -> Iterator[bytes]:
            yield b"x" * (9 * MIB)
            server.kill()
            server.start()
            yield b"y" * (9 * MIB)

        with pytest.raises(StorageError, match="has lost what was sent") as told:
            artifacts.write("v", "bytes", forgotten())
        assert told.value.retryable
        assert artifacts.list() == []
        with pytest.raises(StorageError, match="while it was read"):
            next(pieces)
        artifacts.save("v", "new")
        assert artifacts.load("v") == "new"
    finally:
        server.close()


def test_a_server_that_goes_away_within_a_reading_is_told_or_the_reading_goes_on(mortal: RedisServer) -> None:
    artifacts = RedisStorage(mortal.url).get_artifact_store()
    artifacts.save("v", b"a" * (9 * MIB))
    _, pieces = artifacts.read("v")
    read = [next(pieces)]
    mortal.kill()
    mortal.start()
    read += pieces
    assert b"".join(read) == b"a" * (9 * MIB)
    _, pieces = artifacts.read("v")
    next(pieces)
    mortal.kill()
    with pytest.raises(StorageError) as away:
        next(pieces)
    assert away.value.retryable


def test_nothing_that_was_accepted_is_lost_by_kills_in_the_middle(mortal: RedisServer) -> None:
    stop, failures = threading.Event(), []
    accepted: dict[str, int] = {}
    progress = threading.Semaphore(0)

    def write(thread: int) -> None:
        artifacts = RedisStorage(mortal.url).get_artifact_store()
        number = 0
        while not stop.is_set():
            number += 1
            name, size = f"{thread}/{number % 5}", (5 * MIB if number % 7 == 0 else 100)
            try:
                artifacts.save(name, number.to_bytes(4, "big") * (size // 4), str(number))
            except StorageError as lost:
                if not lost.retryable:
                    failures.append(lost)
            except BaseException as failure:
                failures.append(failure)
            else:
                accepted[name] = number
                progress.release()

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(4):
            for _ in range(12):
                assert progress.acquire(timeout=60)
            mortal.kill()
            mortal.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    artifacts = RedisStorage(mortal.url).get_artifact_store()
    assert {each.name for each in artifacts.list()} >= set(accepted)
    for info in artifacts.list():
        number = int(info.description)
        assert number >= accepted.get(info.name, 0)  # one that was not confirmed may have been kept nonetheless
        assert artifacts.load(info.name) == number.to_bytes(4, "big") * (info.size // 4)


def test_a_finish_whose_answer_was_lost_does_not_take_the_content_along(mortal: RedisServer) -> None:
    """The server has done it and the answer never came: nobody may take the pieces for unused."""
    artifacts = RedisStorage(mortal.url).get_artifact_store()
    link = artifacts._store._link
    run = link.run

    def losing(script: str, *arguments: Any, **more: Any) -> Any:
        answer = run(script, *arguments, **more)
        if "PERSIST" in script:
            raise StorageError("the answer was lost", retryable=True)
        return answer

    link.run = losing
    with pytest.raises(StorageError, match="lost"):
        artifacts.save("v", b"x" * (9 * MIB))
    link.run = run
    assert artifacts.load("v") == b"x" * (9 * MIB)
    artifacts.save("v", b"x" * (9 * MIB))


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = RedisStorage(f"redis://:hidden@127.0.0.1:{silent.getsockname()[1]}/3?socket_timeout=0.05")
        with pytest.raises(StorageError, match="cannot be reached") as told:
            storage.get_artifact_store().list()
        assert told.value.retryable
        assert "127.0.0.1" in str(told.value)
        assert "database 3" in str(told.value)
        assert "hidden" not in str(told.value)


def test_a_server_that_talks_nonsense_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as strange:

        def answer() -> None:
            while True:
                try:
                    connection, _ = strange.accept()
                except OSError:  # shut down
                    return
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        storage = RedisStorage(f"redis://127.0.0.1:{strange.getsockname()[1]}")
        with pytest.raises(StorageError):
            storage.get_artifact_store().list()
        strange.shutdown(socket.SHUT_RDWR)
        thread.join()
