"""Live replicas through a whole controller."""

from __future__ import annotations

from .conftest import Stubs
from .raw_replica import RawReplica
from .test_documents import Notebook


async def test_a_replica_has_the_document_and_what_becomes_of_it(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    await notebook.create("a", "b")
    replica = await RawReplica(stubs).open()
    await replica.settle()
    assert replica.cells() == {"a": "print a", "b": "print b"}
    await notebook.call("SetSource", cell_id="a", source="other")
    await notebook.call("DeleteCell", cell_id="b")
    while replica.cells() != {"a": "other"}:
        await replica.take()
        await replica.send()


async def test_what_a_replica_writes_is_the_documents_at_once(stubs: Stubs) -> None:
    notebook = Notebook(stubs)
    replica = await RawReplica(stubs).open()
    other = await RawReplica(stubs).open()
    await other.settle()
    await replica.settle()
    replica.create("a", "1 + 1")
    replica.create("c", "x" * 30_000)
    replica.create("b", source="one value")
    await replica.settle()
    assert await notebook.ids() == "abc"
    assert (await notebook.cell("a")).source == "1 + 1"
    assert (await notebook.cell("b")).source == "one value"
    assert (await notebook.run("a")).source == "1 + 1"
    await notebook.call("SpliceSource", cell_id="a", index=1, text="0")
    while other.cells().get("a") != "10 + 1":
        await other.take()
        await other.send()
    assert other.cells()["b"] == "one value"
