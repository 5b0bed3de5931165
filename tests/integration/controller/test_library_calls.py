"""Code's calls that the controller serves where no client does: on scripted kernels, with nobody attached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cellyard_controller.executions import calls as execution_calls
from cellyard_proto import values
from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import library_pb2 as pb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import WITHIN, Outliving, Stubs, Yard, until
from .test_access import Tcp
from .test_audit import entries
from .test_files import Beside
from .test_library import put, read, write

KERNEL = {"session_id": "s", "request_id": "kernel"}


@pytest.fixture
async def tcp(yard: Yard) -> AsyncIterator[Tcp]:
    stubs = await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    tcp = Tcp(stubs, yard.controller.addresses[1])
    yield tcp
    for channel in tcp.channels:
        await channel.close()


def ask(function: str, operation: str, **kwargs: Any) -> str:
    """A line of a script."""
    return f"ask codemode.{function} {operation} {values.encode(kwargs)}"


async def told(stubs: Stubs, *lines: str, notebook: str = "nb", **more: Any) -> list[tuple[str, Any]]:
    """What each call got: `value` and the value, or `error` and its name and message."""
    done = await stubs.run(notebook, "\n".join(lines), **more)
    return answers("".join(output.stream.text for output in done.outputs))


def answers(printed: str) -> list[tuple[str, Any]]:
    split = [line.partition(" ") for line in printed.splitlines()]
    return [(kind, values.decode(rest) if kind == "value" else rest) for kind, _, rest in split]


async def test_code_keeps_finds_and_deletes_workflows(stubs: Stubs) -> None:
    source = '"""Adds."""\ndef run(left: int, right=(1, 2)): ...'
    summary = {
        "name": "add",
        "description": "Adds.",
        "parameters": [
            {"name": "left", "type": "integer", "description": "", "required": True, "default": None},
            {"name": "right", "type": "string", "description": "", "required": False, "default": [1, 2]},
        ],
    }
    assert await told(
        stubs,
        ask("workflows", "create", name="add", source=source),
        ask("workflows", "list"),
        ask("workflows", "search", query="adds"),
        ask("workflows", "get", name="add"),
        ask("workflows", "get", name="none"),
        ask("workflows", "delete", name="add"),
        ask("workflows", "delete", name="add"),
        ask("workflows", "list"),
    ) == [
        ("value", summary),
        ("value", [summary]),
        ("value", [summary]),
        ("value", summary | {"source": source}),
        ("value", None),
        ("value", True),
        ("value", False),
        ("value", []),
    ]


@pytest.mark.parametrize("data", [b"\0\xff", "text\r\né", None, 1, 2**80, 1.5, [1, {"a": [None, True]}], {}, "", b""])
async def test_values_come_back_as_they_went(stubs: Stubs, data: Any) -> None:
    save = ask("artifacts", "save", name="a", data=data, description="d", metadata={"k": 1})
    (_, kept), (_, there), (_, loaded), (_, listed) = await told(
        stubs,
        save,
        ask("artifacts", "get", name="a"),
        ask("artifacts", "load", name="a"),
        ask("artifacts", "list"),
    )
    assert (kept["name"], kept["path"], kept["description"], kept["metadata"]) == ("a", "controller:/a", "d", {"k": 1})
    assert kept["created_at"].endswith("+00:00")
    assert there == kept
    assert listed == [kept]
    assert loaded["data"] == data
    assert type(loaded["data"]) is type(data)


async def test_code_and_clients_see_the_same(stubs: Stubs) -> None:
    await write(stubs, "a", b"1", type="json")
    await write(stubs, "elsewhere", b"1", workspace_id="in")
    await stubs.workflows.Put(put("w"))
    loaded, there, elsewhere, saved, deleted = await told(
        stubs,
        ask("artifacts", "load", name="a"),
        ask("artifacts", "exists", name="a"),
        ask("artifacts", "exists", name="elsewhere"),
        ask("artifacts", "save", name="b", data="é"),
        ask("artifacts", "delete", name="a"),
    )
    assert loaded == ("value", {"type": "json", "data": 1})
    assert (there, elsewhere, deleted) == (("value", True), ("value", False), ("value", None))
    assert saved[1]["name"] == "b"
    assert (await read(stubs, "b"))[1] == "é".encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (ask("artifacts", "load", name="no"), "ArtifactNotFoundError: Artifact 'no' not found"),
        (ask("artifacts", "save", name="../a", data=1), "ArtifactNameError: Path traversal"),
        (ask("artifacts", "save", name="a", data=(1,)), "ArtifactDataError: the value holds a tuple"),
        (ask("artifacts", "save", name="a", data=1, metadata=[1]), "ArtifactDataError: metadata is a dict"),
        (ask("artifacts", "save", name="a"), "CodeModeError: save takes data or file"),
        (ask("artifacts", "save", name="a", file={"path": "../x", "type": "text"}), "CodeModeError: the path '../x'"),
        (ask("artifacts", "save", name="a", file={"path": "x", "type": "odd"}), "ArtifactDataError: an artifact is"),
        (ask("artifacts", "save", name="a", file={"path": "x", "type": "text"}), "StorageError: 'x' not found"),
        (ask("artifacts", "explode"), "CodeModeError: codemode.artifacts has no operation 'explode'"),
        (ask("artifacts", "load", nme="a"), "CodeModeError: load: missing a required argument: 'name'"),
        (ask("workflows", "create", name="list", source="def run(): pass"), "WorkflowValidationError: Reserved"),
        (ask("workflows", "create", name="a", source=1), "WorkflowValidationError: a workflow's source is a str"),
        (ask("workflows", "search", query="a", limit="x"), "CodeModeError: limit is of type int"),
        ('ask codemode.workflows list {"$set": [{}]}', "CodeModeError: the arguments of codemode.workflows"),
        ("call codemode.workflows [1]", "CodeModeError: codemode.workflows takes the name of an operation"),
    ],
)
async def test_what_goes_wrong_reaches_the_code_by_its_class(stubs: Stubs, line: str, said: str) -> None:
    ((kind, error),) = await told(stubs, line)
    assert (kind, error[: len(said)]) == ("error", said)


async def test_tools_and_packages_are_the_clients_alone(stubs: Stubs) -> None:
    for function in ("tools", "deps"):
        ((kind, why),) = await told(stubs, ask(function, "list"))
        assert kind == "unavailable"
        assert "tools and packages are its alone" in why


async def test_a_client_that_offers_a_function_serves_it_itself(stubs: Stubs) -> None:
    stream = aiter(
        stubs.start(
            "nb",
            ask("artifacts", "list") + "\n" + ask("workflows", "list"),
            session_id="s",
            host_calls=["codemode.artifacts"],
        )
    )
    execution_id, printed = "", ""
    async for event in stream:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            execution_id = event.accepted.execution_id
        elif kind == "host_call" and event.host_call.name == "codemode.artifacts":
            given = ex.AnswerCall(
                notebook_id="nb", execution_id=execution_id, call_id=event.host_call.call_id, value_json='"mine"'
            )
            assert (await stubs.executions.Answer(given)).accepted
        elif kind == "output":
            printed += event.output.stream.text
    assert answers(printed) == [("value", "mine"), ("value", [])]


async def test_nobody_else_answers_what_the_controller_serves(stubs: Stubs, yard: Yard) -> None:
    """A client that answers it all the same is told that it came too late."""
    release = holding(yard)
    stream = aiter(stubs.start("nb", ask("artifacts", "list"), session_id="s"))
    execution_id, printed = "", ""
    async for event in stream:
        kind = event.WhichOneof("event")
        if kind == "accepted":
            execution_id = event.accepted.execution_id
        elif kind == "host_call":
            given = ex.AnswerCall(
                notebook_id="nb", execution_id=execution_id, call_id=event.host_call.call_id, value_json='"forged"'
            )
            assert not (await stubs.executions.Answer(given)).accepted
            release.set()
        elif kind == "output":
            printed += event.output.stream.text
    assert answers(printed) == [("value", [])]


async def test_files_of_the_sandbox_are_saved_and_written(stubs: Stubs) -> None:
    async for _ in stubs.kernels.Start(ker.StartKernel(notebook_id="nb", **KERNEL)):
        pass
    beside, content = Beside(stubs), bytes(range(256)) * 8192
    await beside.upload("in/large", *(content[start : start + 2**18] for start in range(0, len(content), 2**18)))
    (_, kept), (_, loaded), (kind, error) = await told(
        stubs,
        ask("artifacts", "save", name="a", file={"path": "in/large", "type": "bytes"}),
        ask("artifacts", "load", name="a", into="out/large"),
        ask("artifacts", "load", name="a"),
    )
    assert kept["name"] == "a"
    assert loaded == {"type": "bytes", "file": "out/large"}
    assert (kind, error.split(":")[0]) == ("error", "ArtifactDataError")
    assert await beside.download("out/large") == content
    assert (await read(stubs, "a"))[1] == content
    deep = b"[" * 50 + b"]" * 50
    await write(stubs, "deep", deep, type="json")
    assert await told(stubs, ask("artifacts", "load", name="deep", into="deep")) == [
        ("value", {"type": "json", "file": "deep"})
    ]
    assert await beside.download("deep") == deep


def holding(yard: Yard) -> asyncio.Event:
    """From now on what is kept is not read until the event is set."""
    release, store = asyncio.Event(), yard.controller._store
    artifacts = yard.controller._library.artifacts

    class Slow:
        """The store, for those who have time."""

        blobs = store.blobs
        write = store.write

        async def read(self, work: Any) -> Any:
            await release.wait()
            return await store.read(work)

    artifacts._store = Slow()  # type: ignore[assignment]
    return release


async def test_a_store_that_hangs_stops_neither_the_room_nor_the_interrupt(stubs: Stubs, yard: Yard) -> None:
    holding(yard)
    stream = aiter(stubs.start("nb", ask("artifacts", "list")))
    async for event in stream:
        if event.WhichOneof("event") == "host_call":
            break
    kernel = await stubs.kernels.Get(ker.GetKernel(notebook_id="nb"))
    assert kernel.state == ker.KERNEL_STATE_BUSY
    (room,) = [seat.room for seat in yard.controller.rooms._seats.values()]
    assert room._calling._serving.busy
    await stubs.kernels.Interrupt(ker.InterruptKernel(notebook_id="nb"))
    ended = [event async for event in stream][-1]
    assert ended.finished.end == ex.EXECUTION_END_INTERRUPTED
    await until(lambda: not room._calling._serving.busy)


async def test_many_calls_of_one_cell_are_all_served(stubs: Stubs) -> None:
    lines = [ask("artifacts", "save", name=f"a/{number}", data=number) for number in range(40)]
    assert [kind for kind, _ in await told(stubs, *lines)] == ["value"] * 40
    assert len((await stubs.artifacts.List(pb.ListArtifacts())).artifacts) == 40


async def test_an_execution_makes_so_many_calls_and_no_more(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_calls, "MAX_CALLS", 2)
    seen = await told(stubs, *[ask("artifacts", "list")] * 3)
    assert [kind for kind, _ in seen] == ["value", "value", "unavailable"]


async def test_tenants_see_their_own_and_their_quota_is_theirs(tcp: Tcp, yard: Yard) -> None:
    alice, as_alice = await tcp.tenant("alice")

    async def of(stubs: Stubs, cell: str, *lines: str, metadata: Any = None) -> list[tuple[str, Any]]:
        start = ex.Start(notebook_id="nb", source=ex.NewCell(cell_id=cell, source="\n".join(lines)))
        events = [each async for each in stubs.executions.Execute(start, metadata=metadata)]
        return answers("".join(each.output.stream.text for each in events if each.WhichOneof("event") == "output"))

    (kind, _), (_, listed) = await of(
        alice, "1", ask("artifacts", "save", name="a", data=1), ask("artifacts", "list"), metadata=as_alice
    )
    assert (kind, [each["name"] for each in listed]) == ("value", ["a"])
    assert await of(tcp.operator, "1", ask("artifacts", "list")) == [("value", [])]
    save = ask("artifacts", "save", name="b", data="x" * 70_000)
    saving = asyncio.ensure_future(of(alice, "2", "gate full", save, metadata=as_alice))
    await yard.runtime.reached("full")
    await tcp.operator.tenants.SetQuotas(te.SetTenantQuotas(name="alice", quotas={"storage": "64KiB"}))
    yard.runtime.open("full")
    ((kind, error),) = await saving
    assert (kind, error.split(":")[0]) == ("error", "StorageError")
    assert "the quota storage of tenant 'alice' is used up" in error


async def test_a_rate_makes_code_wait_and_not_fail(yard: Yard, tcp: Tcp) -> None:
    alice, as_alice = await tcp.tenant("alice")
    await tcp.operator.tenants.SetQuotas(te.SetTenantQuotas(name="alice", quotas={"rate": "20"}))
    source = "\n".join([ask("artifacts", "list")] * 60)
    start = ex.Start(notebook_id="nb", source=ex.NewCell(cell_id="c", source=source))
    events = [each async for each in alice.executions.Execute(start, metadata=as_alice)]
    printed = "".join(each.output.stream.text for each in events if each.WhichOneof("event") == "output")
    assert answers(printed) == [("value", [])] * 60


async def test_what_code_changes_is_noted(stubs: Stubs, yard: Yard) -> None:
    await told(
        stubs,
        ask("artifacts", "save", name="a", data="s3cr3t"),
        ask("artifacts", "load", name="a"),
        ask("artifacts", "delete", name="b"),
    )
    noted = [
        (each["action"], each["operation"], each["name"], each["notebook_id"], each["outcome"])
        for each in await entries(yard)
        if each["action"].startswith("codemode.")
    ]
    assert noted == [
        ("codemode.artifacts", "save", "a", "nb", "ok"),
        ("codemode.artifacts", "delete", "b", "nb", "ok"),
    ]


async def test_an_open_call_is_served_after_a_restart_and_changes_things_once(yard: Yard, runtime: Outliving) -> None:
    """The controller goes while the store hangs; its successor serves the call, and nobody's client is there."""
    stubs = await yard.start(on_stop="keep")
    await stubs.run("nb", "value 1")
    release = holding(yard)
    stream = aiter(stubs.start("nb", ask("artifacts", "exists", name="a") + "\nprint behind"))
    execution_id = (await anext(stream)).accepted.execution_id
    async for event in stream:
        if event.WhichOneof("event") == "host_call":
            break
    await yard.stop()
    release.set()
    stubs = await yard.start(on_stop="keep")
    again = stubs.executions.Attach(ex.AttachExecution(notebook_id="nb", execution_id=execution_id))
    async with asyncio.timeout(WITHIN):
        printed = "".join([e.output.stream.text async for e in again if e.WhichOneof("event") == "output"])
    assert printed == "value false\nbehind\n"


async def test_a_transfer_whose_connection_breaks_is_begun_again(yard: Yard, stubs: Stubs) -> None:
    async for _ in stubs.kernels.Start(ker.StartKernel(notebook_id="nb", **KERNEL)):
        pass
    content = b"x" * 100_000
    await Beside(stubs).upload("in", content)
    (sandbox,) = yard.controller.supervisor.sandboxes()
    running = asyncio.ensure_future(
        told(stubs, "gate before", ask("artifacts", "save", name="a", file={"path": "in", "type": "bytes"}))
    )
    await yard.runtime.reached("before")
    begun = asyncio.Event()
    visits = next(seat.room for seat in yard.controller.rooms._seats.values()).visits
    original = visits.begin

    def begin(what: Any) -> Any:
        if not begun.is_set():
            begun.set()
            yard.runtime.drop_link(sandbox.instance_id)
        return original(what)

    visits.begin = begin  # type: ignore[method-assign]
    yard.runtime.open("before")
    ((kind, kept),) = await running
    assert begun.is_set()
    assert (kind, kept["name"]) == ("value", "a")
    assert (await read(stubs, "a"))[1] == content
