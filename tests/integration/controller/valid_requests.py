"""One valid request for each method, as a client would send it: what damaged and altered ones are made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import files_pb2 as fi
from cellyard_proto.v1 import history_pb2 as his
from cellyard_proto.v1 import kernels_pb2 as ker
from cellyard_proto.v1 import library_pb2 as lib
from cellyard_proto.v1 import manner_pb2 as man
from cellyard_proto.v1 import nodes_pb2 as no
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import outputs_pb2 as out
from cellyard_proto.v1 import processes_pb2 as pro
from cellyard_proto.v1 import sandboxes_pb2 as sb
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import tenants_pb2 as te

AT: dict[str, Any] = {"notebook_id": "nb"}
NOTEBOOK = json.dumps(
    {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"a": [1, None]},
        "cells": [
            {
                "cell_type": "code",
                "id": "i",
                "source": "1",
                "metadata": {},
                "execution_count": 3,
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "x"}],
            }
        ],
    }
).encode()
SETTINGS = ker.KernelSettings(kernel_type="python", runtime="docker", template="default", idle_timeout_s=60, ttl_s=900)


def valid_requests(cell: str, execution: str) -> dict[str, Sequence[Message]]:
    """By path of the method; several messages where it takes a stream."""
    new = ex.NewCell(cell_id="made", source="print a\nvalue 1", index=0)
    comm = out.Comm(comm_id="k", message=out.CommMessage(data_json='{"method": "update", "state": {"a": 1}}'))
    found: dict[str, dict[str, Sequence[Message]]] = {
        "Notebooks": {
            "CreateCell": [nb.CreateCellRequest(**AT, cell_id="made", cell_type="code", source="x = 1", index=0)],
            "SetSource": [nb.SetSourceRequest(**AT, cell_id=cell, source="value 2")],
            "GetCell": [nb.GetCellRequest(**AT, cell_id=cell)],
            "ListCells": [nb.ListCellsRequest(**AT)],
            "DeleteCell": [nb.DeleteCellRequest(**AT, cell_id="made")],
            "MoveCell": [nb.MoveCellRequest(**AT, cell_id=cell, after_cell_id="made")],
            "SpliceSource": [nb.SpliceSourceRequest(**AT, cell_id=cell, index=1, delete_count=1, text="é")],
            "SetCellMetadata": [
                nb.SetCellMetadataRequest(**AT, cell_id=cell, metadata_json='{"tags": ["a"]}', remove_keys=["b"])
            ],
            "SetCellType": [nb.SetCellTypeRequest(**AT, cell_id="made", cell_type="markdown")],
            "ClearOutputs": [nb.ClearOutputsRequest(**AT, cell_id=cell)],
            "SetMetadata": [nb.SetMetadataRequest(**AT, key="notebook_metadata", value='{"kernelspec": {}}')],
            "GetMetadata": [nb.GetMetadataRequest(**AT, key="notebook_metadata")],
            "SetLabels": [nb.SetLabelsRequest(**AT, labels={"team": "a"}, remove_keys=["b"])],
            "Export": [nb.ExportRequest(**AT)],
            "Import": [nb.ImportRequest(notebook_id="empty", content=NOTEBOOK)],
            "Watch": [nb.WatchNotebook(**AT)],
            "Sync": [nb.SyncFromClient(open=nb.SyncOpen(**AT)), nb.SyncFromClient(sync=b"\x42\0\0\1\0\0\0")],
            "List": [nb.ListNotebooks(limit=10, after_notebook_id="a")],
            "Delete": [nb.DeleteNotebook(notebook_id="empty")],
        },
        "Executions": {
            "Execute": [
                ex.Start(
                    **AT,
                    source=new,
                    session_id="s",
                    timeout_s=5,
                    kernel=SETTINGS,
                    host_calls=["f"],
                    manner=man.Manner(store_history=False, user_expressions={"a": "b"}, payload=True),
                )
            ],
            "Enqueue": [ex.Start(**AT, cell_id=cell, session_id="s", stop_on_error=True, coalesce=True)],
            "Attach": [ex.AttachExecution(**AT, execution_id=execution, after_seq=1, session_id="s")],
            "Get": [ex.GetExecution(**AT, execution_id=execution)],
            "List": [ex.ListExecutions(**AT, limit=5, before_execution_id=execution)],
            "Cancel": [ex.CancelExecution(**AT, execution_id=execution)],
            "Answer": [ex.AnswerCall(**AT, execution_id=execution, call_id="call-1", value_json="[1]")],
            "ReadBlob": [ex.ReadBlobRequest(**AT, digest=f"sha256:{'0' * 64}", offset=1)],
        },
        "Kernels": {
            "Start": [ker.StartKernel(**AT, session_id="s", settings=SETTINGS)],
            "Get": [ker.GetKernel(**AT)],
            "Shutdown": [ker.ShutdownKernel(**AT)],
            "Interrupt": [ker.InterruptKernel(**AT, session_id="s", restart_after_s=1)],
            "Restart": [ker.RestartKernel(**AT, session_id="s")],
            "Extend": [ker.ExtendKernel(**AT, ttl_s=60)],
            "Complete": [ker.CompleteRequest(**AT, code="pri", cursor=2)],
            "Inspect": [ker.InspectRequest(**AT, code="print", cursor=2, detail_level=1)],
            "History": [ker.HistoryRequest(**AT, limit=3, search=his.HistorySearch(pattern="a*"), output=True)],
            "IsComplete": [ker.IsCompleteRequest(**AT, code="def f():")],
            "Info": [ker.KernelInfoRequest(**AT)],
            "SendComm": [ker.SendCommRequest(**AT, comm=comm)],
            "Install": [ker.InstallRequest(**AT, requirements=["numpy"])],
            "Uninstall": [ker.UninstallRequest(**AT, names=["numpy"])],
            "ListInstalled": [ker.ListInstalledRequest(**AT)],
        },
        "Files": {
            "Upload": [
                fi.UploadPart(begin=fi.UploadBegin(**AT, path="a/b", size=4)),
                fi.UploadPart(content=b"ab"),
                fi.UploadPart(content=b"cd"),
            ],
            "Download": [fi.DownloadFile(**AT, path="a/b")],
            "List": [fi.ListFiles(**AT, path="a")],
            "Remove": [fi.RemoveFile(**AT, path="a/b")],
        },
        "Processes": {
            "Exec": [
                pro.ExecInput(start=pro.ExecStart(**AT, argv=["cat"], timeout_s=1)),
                pro.ExecInput(stdin=b"x"),
                pro.ExecInput(stdin_end=pro.ExecStdinEnd()),
            ]
        },
        "Workflows": {
            "List": [lib.ListWorkflows(workspace_id="w", limit=3, after_name="a", with_sources=True)],
            "Get": [lib.GetWorkflow(name="kept")],
            "Put": [lib.PutWorkflow(name="kept", source="def run(a=1): return a", description="one")],
            "Remove": [lib.RemoveWorkflow(name="kept")],
            "Search": [lib.SearchWorkflows(query="one", limit=3)],
        },
        "Artifacts": {
            "List": [lib.ListArtifacts(limit=3, after_name="a")],
            "Get": [lib.GetArtifact(name="a/b")],
            "Write": [
                lib.WriteArtifact(
                    begin=lib.WriteArtifactBegin(name="a/b", type="text", metadata_json='{"a": [1]}', size=4)
                ),
                lib.WriteArtifact(content=b"abcd"),
            ],
            "Read": [lib.ReadArtifact(name="a/b")],
            "Remove": [lib.RemoveArtifact(name="a/b")],
        },
        "Sandboxes": {
            "GetCapabilities": [sb.GetCapabilitiesRequest(runtime="docker", template="default")],
            "List": [sb.ListSandboxes()],
            "Watch": [sb.WatchSandboxes()],
            "ListPools": [sb.ListPoolsRequest()],
            "Stop": [sb.StopSandbox(sandbox_id="sb-000000000000")],
        },
        "Sessions": {
            "Hello": [se.HelloRequest(client="x", client_version="1", protocol=1)],
            "Attach": [se.AttachSession(**AT, session_id="s", used_kernel=True)],
            "Close": [se.CloseSession(**AT, session_id="s")],
        },
        "Nodes": {
            "List": [no.ListNodes()],
            "Drain": [no.DrainNode(name="one")],
            "Resume": [no.ResumeNode(name="one")],
        },
        "Tenants": {
            "Create": [te.CreateTenant(name="t-1")],
            "List": [te.ListTenants()],
            "Get": [te.GetTenant(name="t-1")],
            "SetQuotas": [te.SetTenantQuotas(name="t-1", quotas={"sandboxes": "4", "memory": "4GiB"})],
            "IssueToken": [te.IssueTokenRequest(tenant="t-1", grant=te.TokenGrant(name="x", scope="read"))],
            "ListTokens": [te.ListTokensRequest(tenant="t-1")],
            "GetUsage": [te.GetUsageRequest(tenant="t-1", from_day="2026-01-01", to_day="2026-12-31")],
            "Revoke": [te.RevokeTenant(name="t-1", token_id="0123456789ab")],
        },
    }
    return {
        f"/cellyard.v1.{service}/{name}": messages for service, each in found.items() for name, messages in each.items()
    }
