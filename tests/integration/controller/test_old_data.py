"""A data folder of an earlier version opens, whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Yard

DATA = Path(__file__).parents[2] / "data"


async def test_the_first_schema_opens_and_goes_on(yard: Yard) -> None:
    shutil.copytree(DATA / "v1", yard.folder / "data")
    stubs = await yard.start()
    listed = (await stubs.notebooks.List(nb.ListNotebooks())).notebooks
    assert [each.notebook_id for each in listed] == ["first", "second"]
    title, hello, display, _, failed = (await stubs.notebooks.ListCells(nb.ListCellsRequest(notebook_id="first"))).cells
    assert (title.cell_type, title.source) == ("markdown", "# A notebook of the first release")
    assert hello.outputs[0].stream.text == "hello\n"
    assert display.outputs[0].display_data.data["text/plain"].text == "after"
    assert failed.outputs[-1].error.ename == "ValueError"
    owner = await stubs.notebooks.GetMetadata(nb.GetMetadataRequest(notebook_id="first", key="owner"))
    assert owner.value == "somebody"
    runs = (await stubs.executions.List(ex.ListExecutions(notebook_id="first"))).executions
    assert [ex.ExecutionEnd.Name(run.end) for run in runs][:2] == ["EXECUTION_END_FAILED", "EXECUTION_END_SUCCEEDED"]
    request = ex.AttachExecution(notebook_id="first", execution_id=hello.execution_id)
    events = [event async for event in stubs.executions.Attach(request)]
    assert events[-1].finished.value.json == "42"
    assert [tenant.name for tenant in (await stubs.tenants.List(te.ListTenants())).tenants] == ["alice"]
    assert (await stubs.run("first", "value 1")).end == ex.EXECUTION_END_SUCCEEDED
