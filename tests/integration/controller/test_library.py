"""Workflows and artifacts over gRPC: kept, listed, searched, bounded, apart, and gone when they are removed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from cellyard_controller.config import Config
from cellyard_controller.executions import blob_uses
from cellyard_controller.store.schema import artifacts
from cellyard_proto.v1 import library_pb2 as pb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard, until
from .test_access import Tcp, reason
from .test_audit import entries

PART = 512 * 1024


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


def parts(content: bytes, size: int | None = None, **begin: Any) -> Iterator[pb.WriteArtifact]:
    size = len(content) if size is None else size
    yield pb.WriteArtifact(begin=pb.WriteArtifactBegin(**{"type": "bytes", "size": size, **begin}))
    for start in range(0, len(content), PART):
        yield pb.WriteArtifact(content=content[start : start + PART])


async def write(stubs: Stubs, name: str, content: bytes, metadata: Any = None, **begin: Any) -> pb.Artifact:
    while True:
        try:
            return await stubs.artifacts.Write(parts(content, name=name, **begin), metadata=metadata)
        except grpc.aio.AioRpcError as failed:
            if failed.details() != "Internal error from Core":  # gRPC's, for what is sent behind a refusal
                raise


async def read(stubs: Stubs, name: str, metadata: Any = None, **more: Any) -> tuple[pb.Artifact, bytes]:
    found = [part async for part in stubs.artifacts.Read(pb.ReadArtifact(name=name, **more), metadata=metadata)]
    assert found[-1].last
    return found[0].about, b"".join(part.content for part in found)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return reason(failed.value), failed.value.details() or ""


def put(name: str, source: str = "def run(): pass", **more: Any) -> pb.PutWorkflow:
    return pb.PutWorkflow(name=name, source=source, **more)


def files(yard: Yard) -> int:
    """Contents on disk, unfinished ones too."""
    return sum(1 for path in (yard.folder / "data" / "blobs").rglob("*") if path.is_file())


async def test_a_workflow_is_kept_as_it_was_given_and_told_as_it_was_read(stubs: Stubs) -> None:
    source = (
        '"""Adds things up.\n\nAll of them."""\nasync def run(left: int, right: float = 2.5, *, how: str = "plus"): ...'
    )
    kept = await stubs.workflows.Put(put("add", source))
    assert (kept.name, kept.description, kept.described, kept.source) == ("add", "Adds things up.", False, source)
    told = [(each.name, each.type, each.required, each.default_json) for each in kept.parameters]
    assert told == [
        ("left", "integer", True, ""),
        ("right", "number", False, "2.5"),
        ("how", "string", False, '"plus"'),
    ]
    assert await stubs.workflows.Get(pb.GetWorkflow(name="add")) == kept
    again = await stubs.workflows.Put(put("add", description="Of my own"))
    assert (again.description, again.described, list(again.parameters)) == ("Of my own", True, [])
    (listed,) = (await stubs.workflows.List(pb.ListWorkflows())).workflows
    assert (listed.name, listed.description, listed.source) == ("add", "Of my own", "")


async def test_lists_come_page_by_page_and_by_name(stubs: Stubs) -> None:
    names = [f"w{number}" for number in range(5)]
    for name in reversed(names):
        await stubs.workflows.Put(put(name))
        await write(stubs, name, b"x")
    for service, message in ((stubs.workflows, pb.ListWorkflows), (stubs.artifacts, pb.ListArtifacts)):
        seen, more = [], True
        while more:
            page = await service.List(message(limit=2, after_name=seen[-1] if seen else ""))
            found = page.workflows if service is stubs.workflows else page.artifacts
            seen += [each.name for each in found]
            more = page.more
            assert len(found) <= 2
        assert seen == names


async def test_search_finds_by_words_best_first(stubs: Stubs) -> None:
    await stubs.workflows.Put(put("fetch", '"""Fetch a page, and the page behind that page."""\ndef run(url): ...'))
    await stubs.workflows.Put(put("count", '"""Count words of a page."""\ndef run(text): ...'))
    await stubs.workflows.Put(put("other", '"""Something else."""\ndef run(): ...'))
    found = (await stubs.workflows.Search(pb.SearchWorkflows(query="page"))).workflows
    assert [each.name for each in found] == ["fetch", "count"]
    assert [each.name for each in (await stubs.workflows.Search(pb.SearchWorkflows(query="nothing"))).workflows] == []


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("no-name", "def run(): pass", "valid Python identifier"),
        ("list", "def run(): pass", "Reserved"),
        ("a", "def walk(): pass", "must define"),
        ("a", "def run(:", "line 1"),
        ("a", "x" * 262145, "at most 262144 characters"),
        ("a", "def run(a=" + "-" * 2900 + "1): pass", "parameters cannot be read"),
        ("a", "x=" + "-" * 200_000 + "1\ndef run(): pass", "Syntax error"),
        ("a", "x=a" + ".a" * 50_000 + "\ndef run(): pass", "Syntax error"),
    ],
)
async def test_what_is_no_workflow_is_refused_by_name(stubs: Stubs, name: str, source: str, why: str) -> None:
    what, said = await refused(stubs.workflows.Put(put(name, source)))
    assert what == "WORKFLOW_INVALID"
    assert why in said
    assert list((await stubs.workflows.List(pb.ListWorkflows())).workflows) == []


async def test_a_source_that_takes_long_to_read_holds_nobody_up(stubs: Stubs) -> None:
    """Others are answered while it is being read: the parser runs elsewhere."""
    reading = asyncio.ensure_future(stubs.workflows.Put(put("slow", "a;" * 131_000 + "a\ndef run(): pass")))
    answered = 0
    while not reading.done():
        await asyncio.wait_for(stubs.workflows.List(pb.ListWorkflows()), 10)
        answered += 1
    assert (await reading).name == "slow"
    assert answered > 1


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 5 * PART + 7])
async def test_an_artifact_comes_back_as_it_went(stubs: Stubs, yard: Yard, size: int) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    kept = await write(stubs, "a/b", content, type="text", description="d", metadata_json='{"a": [1, null]}')
    assert (kept.name, kept.type, kept.description, kept.size) == ("a/b", "text", "d", size)
    assert json.loads(kept.metadata_json) == {"a": [1, None]}
    assert kept.created_at > 0
    assert await read(stubs, "a/b") == (kept, content)
    assert await stubs.artifacts.Get(pb.GetArtifact(name="a/b")) == kept
    assert files(yard) == 1


async def test_two_names_share_a_content_until_the_last_is_removed(stubs: Stubs, yard: Yard) -> None:
    store = yard.controller._store
    for name in ("one", "two"):
        await write(stubs, name, b"same" * 1000)
    assert files(yard) == 1
    assert (await stubs.artifacts.Remove(pb.RemoveArtifact(name="one"))).removed
    assert not (await stubs.artifacts.Remove(pb.RemoveArtifact(name="one"))).removed
    assert await blob_uses.collect(store) == 0
    assert (await read(stubs, "two"))[1] == b"same" * 1000
    await write(stubs, "two", b"other")
    assert await blob_uses.collect(store) == 1
    assert (await read(stubs, "two"))[1] == b"other"


async def test_what_is_being_read_stays_as_it_was(stubs: Stubs, yard: Yard) -> None:
    content = bytes(8 * 1024 * 1024)
    await write(stubs, "a", content)
    parts_of = aiter(stubs.artifacts.Read(pb.ReadArtifact(name="a")))
    first = await anext(parts_of)
    await write(stubs, "a", b"new")
    assert await blob_uses.collect(yard.controller._store) == 1
    assert first.about.size == len(content)
    assert b"".join([part.content async for part in parts_of]) == content
    assert (await read(stubs, "a"))[1] == b"new"


async def test_concurrent_writers_of_one_name_leave_one_whole_writing(stubs: Stubs) -> None:
    contents = [bytes([number]) * (PART + number) for number in range(6)]
    await asyncio.gather(*(write(stubs, "a", content) for content in contents))
    about, content = await read(stubs, "a")
    assert content in contents
    assert about.size == len(content)


async def test_a_name_is_an_artifacts_or_a_folders(stubs: Stubs) -> None:
    await write(stubs, "a/b", b"1")
    await write(stubs, "c", b"2")
    for name, why in (("a", "'a' is a folder of artifacts"), ("c/d", "'c' is an artifact"), ("c/d/e", "'c' is an")):
        what, said = await refused(write(stubs, name, b"x"))
        assert (what, why in said) == ("ARTIFACT_NAME_INVALID", True)
    for name in ("a-b", "aa/b", "a0", "a/b0", "cc/d"):
        await write(stubs, name, b"beside")
    await write(stubs, "c/d", b"elsewhere", workspace_id="in")
    await stubs.artifacts.Remove(pb.RemoveArtifact(name="a/b"))
    await stubs.artifacts.Remove(pb.RemoveArtifact(name="a/b0"))
    await write(stubs, "a", b"now")


@pytest.mark.parametrize(
    ("begin", "reason_of", "why"),
    [
        ({"name": "../a"}, "ARTIFACT_NAME_INVALID", "traversal"),
        ({"name": ".a"}, "ARTIFACT_NAME_INVALID", "Reserved"),
        ({"name": "a", "type": "image"}, "ARTIFACT_INVALID", "one of"),
        ({"name": "a", "metadata_json": "[]"}, "ARTIFACT_INVALID", "a dict"),
        ({"name": "a", "metadata_json": "{"}, "ARTIFACT_INVALID", "no JSON"),
        ({"name": "a", "metadata_json": json.dumps({"a": "x" * 70_000})}, "ARTIFACT_INVALID", "more than 65536"),
        ({"name": "a", "size": 5}, "ARTIFACT_INVALID", "ended after 3 of 5"),
        ({"name": "a", "size": 2}, "ARTIFACT_INVALID", "more than the 2 bytes"),
        ({"name": "a", "size": 2**40}, "ARTIFACT_INVALID", "at most 1.0 GiB"),
        ({"name": "a", "size": -1}, "ARTIFACT_INVALID", "-1 bytes"),
        ({"name": "a", "workspace_id": "a/b"}, "INVALID_REQUEST", "no workspace"),
    ],
)
async def test_what_is_no_artifact_is_refused_by_name(
    stubs: Stubs, yard: Yard, begin: dict[str, Any], reason_of: str, why: str
) -> None:
    what, said = await refused(write(stubs, content=b"abc", **begin))
    assert (what, why in said) == (reason_of, True), said
    assert files(yard) == 0
    assert list((await stubs.artifacts.List(pb.ListArtifacts())).artifacts) == []


async def test_what_is_not_there_is_not_found(stubs: Stubs) -> None:
    assert (await refused(stubs.workflows.Get(pb.GetWorkflow(name="a"))))[0] == "WORKFLOW_NOT_FOUND"
    assert (await refused(stubs.artifacts.Get(pb.GetArtifact(name="a"))))[0] == "ARTIFACT_NOT_FOUND"
    assert (await refused(read(stubs, "a")))[0] == "ARTIFACT_NOT_FOUND"
    assert (await refused(read(stubs, "/a")))[0] == "ARTIFACT_NAME_INVALID"
    assert not (await stubs.workflows.Remove(pb.RemoveWorkflow(name="a"))).removed


async def test_a_repeated_request_is_answered_and_undoes_nothing(stubs: Stubs) -> None:
    first = await stubs.workflows.Put(put("w", request_id="1"))
    assert (await stubs.workflows.Remove(pb.RemoveWorkflow(name="w", request_id="2"))).removed
    assert (await stubs.workflows.Remove(pb.RemoveWorkflow(name="w", request_id="2"))).removed
    assert await stubs.workflows.Put(put("w", request_id="1")) == first
    assert list((await stubs.workflows.List(pb.ListWorkflows())).workflows) == []
    kept = await write(stubs, "a", b"one", request_id="3")
    await write(stubs, "a", b"two", request_id="4")
    assert await write(stubs, "a", b"one", request_id="3") == kept
    assert (await read(stubs, "a"))[1] == b"two"
    for repeated in (write(stubs, "a", b"six", request_id="3"), stubs.workflows.Put(put("x", request_id="1"))):
        what, said = await refused(repeated)
        assert (what, "used with other content" in said) == ("INVALID_REQUEST", True)


async def test_workspaces_and_tenants_are_apart(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    bob, as_bob = await tcp.tenant("bob")
    await alice.workflows.Put(put("w"), metadata=as_alice)
    await alice.workflows.Put(put("w", description="inner", workspace_id="in"), metadata=as_alice)
    await write(alice, "a", b"outer", metadata=as_alice)
    await write(alice, "a", b"inner", metadata=as_alice, workspace_id="in")
    assert (await read(alice, "a", metadata=as_alice))[1] == b"outer"
    assert (await read(alice, "a", metadata=as_alice, workspace_id="in"))[1] == b"inner"
    inner = await alice.workflows.Get(pb.GetWorkflow(name="w", workspace_id="in"), metadata=as_alice)
    assert inner.description == "inner"
    for stubs, metadata in ((bob, as_bob), (tcp.operator, None)):
        for workspace in ("", "in"):
            where = {"name": "a", "workspace_id": workspace}
            assert list((await stubs.artifacts.List(pb.ListArtifacts(), metadata=metadata)).artifacts) == []
            assert list((await stubs.workflows.List(pb.ListWorkflows(), metadata=metadata)).workflows) == []
            assert (await refused(stubs.artifacts.Get(pb.GetArtifact(**where), metadata=metadata)))[0] == (
                "ARTIFACT_NOT_FOUND"
            )
            assert not (await stubs.artifacts.Remove(pb.RemoveArtifact(**where), metadata=metadata)).removed
            found = await stubs.workflows.Search(pb.SearchWorkflows(query="run inner"), metadata=metadata)
            assert list(found.workflows) == []
    assert (await read(alice, "a", metadata=as_alice))[1] == b"outer"


async def test_a_token_that_reads_changes_nothing(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    await write(alice, "a", b"x", metadata=as_alice)
    issue = te.IssueTokenRequest(tenant="alice", grant=te.TokenGrant(scope="read"))
    issued = await tcp.operator.tenants.IssueToken(issue)
    reads = (("authorization", f"Bearer {issued.token}"),)
    assert (await read(alice, "a", metadata=reads))[1] == b"x"
    for call in (
        alice.workflows.Put(put("w"), metadata=reads),
        alice.workflows.Remove(pb.RemoveWorkflow(name="w"), metadata=reads),
        write(alice, "a", b"y", metadata=reads),
        alice.artifacts.Remove(pb.RemoveArtifact(name="a"), metadata=reads),
    ):
        assert (await refused(call))[0] == "PERMISSION_DENIED"


async def test_the_quota_on_storage_counts_what_is_kept_and_what_is_coming(tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    await tcp.operator.tenants.SetQuotas(te.SetTenantQuotas(name="alice", quotas={"storage": "1MiB"}))
    await write(alice, "a", bytes(600 * 1024), metadata=as_alice)
    what, said = await refused(write(alice, "b", bytes(600 * 1024), metadata=as_alice))
    assert (what, "storage" in said) == ("QUOTA_EXCEEDED", True)
    (kept,) = (await alice.tenants.GetUsage(te.GetUsageRequest(), metadata=as_alice)).kept
    assert 600 * 1024 <= kept.storage_bytes < 601 * 1024
    await alice.artifacts.Remove(pb.RemoveArtifact(name="a"), metadata=as_alice)
    both = await asyncio.gather(
        *(write(alice, name, bytes(600 * 1024), metadata=as_alice) for name in ("b", "c")), return_exceptions=True
    )
    assert sorted(isinstance(each, Exception) for each in both) == [False, True]


async def test_numbers_and_sizes_are_bounded_by_the_configuration(yard: Yard) -> None:
    few = {"workflows": 2, "artifacts": 2, "artifact": 10, "sources": 1000}
    stubs = await yard.start(library=few)
    for name in ("a", "b"):
        await stubs.workflows.Put(put(name))
        await write(stubs, name, b"x")
    for call in (stubs.workflows.Put(put("c")), write(stubs, "c", b"x")):
        what, said = await refused(call)
        assert (what, "keeps 2" in said) == ("QUOTA_EXCEEDED", True)
    assert (await refused(write(stubs, "a", bytes(11))))[0] == "ARTIFACT_INVALID"
    what, said = await refused(stubs.workflows.Put(put("a", "def run(): pass" + "#" * 950)))
    assert (what, "sources" in said) == ("QUOTA_EXCEEDED", True)
    await stubs.workflows.Put(put("a", description="in place of another one"))
    await write(stubs, "a", b"in place")
    await stubs.artifacts.Remove(pb.RemoveArtifact(name="b"))
    await write(stubs, "c", b"x")


async def test_changes_are_noted_with_their_names_and_never_their_contents(stubs: Stubs, yard: Yard) -> None:
    await stubs.workflows.Put(put("w", "def run(): 's3cr3t'"))
    await write(stubs, "a/b", b"s3cr3t", workspace_id="in")
    await stubs.artifacts.Remove(pb.RemoveArtifact(name="a/b", workspace_id="in"))
    await read_nothing(stubs)
    noted = [
        (each["action"], each["name"], each.get("workspace_id"), each["outcome"])
        for each in await entries(yard)
        if each["action"].startswith(("Workflows.", "Artifacts."))
    ]
    assert noted == [
        ("Workflows.Put", "w", None, "ok"),
        ("Artifacts.Write", "a/b", "in", "ok"),
        ("Artifacts.Remove", "a/b", "in", "ok"),
    ]
    assert "s3cr3t" not in (yard.folder / "data" / "audit.jsonl").read_text()


async def read_nothing(stubs: Stubs) -> None:
    await stubs.artifacts.List(pb.ListArtifacts())
    await stubs.workflows.List(pb.ListWorkflows())


async def test_it_is_all_there_after_a_restart(yard: Yard) -> None:
    stubs = await yard.start()
    kept = await write(stubs, "a", b"x" * 100_000)
    workflow = await stubs.workflows.Put(put("w"))
    await yard.stop()
    stubs = await yard.start()
    assert await read(stubs, "a") == (kept, b"x" * 100_000)
    assert await stubs.workflows.Get(pb.GetWorkflow(name="w")) == workflow
    assert await blob_uses.collect(yard.controller._store) == 0


async def test_a_writer_that_goes_in_the_middle_leaves_nothing(stubs: Stubs, yard: Yard) -> None:
    async def half() -> AsyncIterator[pb.WriteArtifact]:
        some = parts(bytes(3 * PART), name="a")
        yield next(some)
        yield next(some)
        await asyncio.Event().wait()

    writing = stubs.artifacts.Write(half())
    await until(lambda: files(yard) == 1)
    writing.cancel()
    await until(lambda: files(yard) == 0)
    count = select(func.count()).select_from(artifacts)
    assert await yard.controller._store.read(lambda c: c.execute(count).scalar_one()) == 0


def test_the_configuration_documents_its_limits() -> None:
    library = Config(data=Path("/nowhere")).library
    assert (library.workflows, library.artifacts, library.artifact) == (10_000, 100_000, 1024**3)
