"""A client that knows nothing but the .proto files: gRPC, and modules that were generated from them just now.

It runs in an interpreter of its own, as `python -I -S plain_client.py PATH ENDPOINT ADDRESS`, and prints what it did.
PATH has the generated modules, grpc and protobuf, and nothing of ours.
"""

import hashlib
import json
import queue
import sys
import threading
import uuid

sys.path.insert(0, sys.argv[1])

import grpc
from google.rpc import error_details_pb2, status_pb2

from cellyard_proto.v1 import executions_pb2 as ex
from cellyard_proto.v1 import executions_pb2_grpc as ex_grpc
from cellyard_proto.v1 import files_pb2 as fi
from cellyard_proto.v1 import files_pb2_grpc as fi_grpc
from cellyard_proto.v1 import kernels_pb2 as ke
from cellyard_proto.v1 import kernels_pb2_grpc as ke_grpc
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import notebooks_pb2_grpc as nb_grpc
from cellyard_proto.v1 import sessions_pb2 as se
from cellyard_proto.v1 import sessions_pb2_grpc as se_grpc
from cellyard_proto.v1 import tenants_pb2 as te
from cellyard_proto.v1 import tenants_pb2_grpc as te_grpc

WITHIN = 150.0
NOTEBOOK = "a notebook/of anybody's"
SESSION = str(uuid.uuid4())

BLOB = "from IPython.display import HTML\nHTML('x' * 300_000)"
CALLS = "from cellyard_sandbox import host\nprint(host.add(2, b=3), input('name? '))"
TWICE = "print('one', flush=True)\nprint(input('go on? '), flush=True)\n'last'"
LONG = "print('begun', flush=True)\nimport time\ntime.sleep(600)"


class Yard:
    """The services over one connection."""

    def __init__(self, address, token=None):
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.channel = grpc.insecure_channel(
            address, (("grpc.max_receive_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1))
        )
        self.sessions = se_grpc.SessionsStub(self.channel)
        self.notebooks = nb_grpc.NotebooksStub(self.channel)
        self.executions = ex_grpc.ExecutionsStub(self.channel)
        self.kernels = ke_grpc.KernelsStub(self.channel)
        self.files = fi_grpc.FilesStub(self.channel)
        self.tenants = te_grpc.TenantsStub(self.channel)

    def call(self, method, request, timeout=WITHIN):
        return method(request, metadata=self.metadata, timeout=timeout)

    def execute(self, code, **more):
        cell = ex.NewCell(cell_id=new("cell"), source=code)
        start = ex.Start(notebook_id=NOTEBOOK, request_id=new("r"), session_id=SESSION, source=cell, **more)
        return self.call(self.executions.Execute, start)


def new(kind):
    return f"{kind}-{uuid.uuid4()}"


def refusal(method, request, metadata=()):
    """The status, reason and metadata with which a call is refused."""
    try:
        answer = method(request, metadata=metadata, timeout=WITHIN)
        if hasattr(answer, "__next__"):
            next(answer)
    except grpc.RpcError as error:
        return described(error)
    raise AssertionError(f"{request} was not refused")


def described(error):
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    status, info = status_pb2.Status.FromString(packed), error_details_pb2.ErrorInfo()
    assert status.code == error.code().value[0]
    assert status.details[0].Unpack(info)
    assert info.domain == "cellyard"
    return error.code().name, info.reason, dict(info.metadata)


def printed(events):
    return "".join(event.output.stream.text for event in events if event.HasField("output"))


def introduced(local, address):
    """Versions, a tenant's token, and who is let in without one."""
    hello = local.call(local.sessions.Hello, se.HelloRequest(client="plain", client_version="1", protocol=1))
    assert (hello.protocol, hello.tenant) == (1, "local")
    token = local.call(local.tenants.Create, te.CreateTenant(name="plain")).token
    remote = Yard(address, token)
    assert remote.call(remote.sessions.Hello, se.HelloRequest(protocol=1)).tenant == "plain"
    other = se.HelloRequest(client="plain", protocol=2)
    assert refusal(remote.sessions.Hello, other, remote.metadata)[1] == "INVALID_REQUEST"
    for metadata in ((), (("authorization", "Bearer nobody's"),)):
        code, reason, _ = refusal(remote.sessions.Hello, se.HelloRequest(protocol=1), metadata)
        assert (code, reason) == ("UNAUTHENTICATED", "UNAUTHENTICATED")
    return remote


def present(yard):
    """Says that this session is there, for as long as the stream is open."""
    stream = yard.sessions.Attach(se.AttachSession(notebook_id=NOTEBOOK, session_id=SESSION), metadata=yard.metadata)
    next(stream)
    return stream


class Watching(threading.Thread):
    """Follows the notebook beside everything else."""

    def __init__(self, yard):
        super().__init__(daemon=True)
        self.seen = queue.SimpleQueue()
        self.ended = None
        self.stream = yard.notebooks.Watch(nb.WatchNotebook(notebook_id=NOTEBOOK), metadata=yard.metadata)
        self.start()

    def run(self):
        try:
            for event in self.stream:
                self.seen.put(event)
        except grpc.RpcError as error:
            self.ended = error.code().name
        self.seen.put(None)

    def until(self, happened):
        """Everything up to the event that was waited for."""
        passed = []
        while True:
            event = self.seen.get(timeout=WITHIN)
            assert event is not None, (self.ended, passed)
            passed.append(event)
            if happened(event):
                return passed


def edited(yard):
    """A cell, made twice by one request and there once, and changed by the one who knows it."""
    made = nb.CreateCellRequest(
        notebook_id=NOTEBOOK, request_id=new("r"), cell_id=new("cell"), cell_type="code", source="1"
    )
    first = yard.call(yard.notebooks.CreateCell, made)
    assert yard.call(yard.notebooks.CreateCell, made).cell_id == first.cell_id == made.cell_id
    change = nb.SetSourceRequest(
        notebook_id=NOTEBOOK,
        request_id=new("r"),
        cell_id=first.cell_id,
        source="'hello'",
        if_version=first.version,
    )
    assert yard.call(yard.notebooks.SetSource, change).source == "'hello'"
    change.request_id, change.source = new("r"), "late"
    code, reason, about = refusal(yard.notebooks.SetSource, change, yard.metadata)
    assert (code, reason, about["cell_id"]) == ("ABORTED", "CELL_CHANGED", first.cell_id)
    made.source = "another"
    assert refusal(yard.notebooks.CreateCell, made, yard.metadata)[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    return first.cell_id


def ran(yard, cell_id):
    """The cell runs, asked for twice by one request, and is one execution."""
    start = ex.Start(notebook_id=NOTEBOOK, request_id=new("r"), session_id=SESSION, cell_id=cell_id)
    events = list(yard.call(yard.executions.Execute, start))
    assert events[0].HasField("accepted")
    assert events[-1].finished.end == ex.EXECUTION_END_SUCCEEDED
    assert json.loads(events[-1].finished.value.json) == "hello"
    numbers = [event.seq for event in events if event.seq]
    assert numbers == list(range(1, len(numbers) + 1))
    execution_id = events[0].accepted.execution_id
    assert yard.call(yard.executions.Enqueue, start).execution_id == execution_id
    found = yard.call(yard.executions.Get, ex.GetExecution(notebook_id=NOTEBOOK, execution_id=execution_id))
    assert found.outputs[0].execute_result.data["text/plain"].text == "'hello'"
    missing = ex.GetExecution(notebook_id=NOTEBOOK, execution_id="no such")
    assert refusal(yard.executions.Get, missing, yard.metadata)[:2] == ("NOT_FOUND", "EXECUTION_NOT_FOUND")
    raised = list(yard.execute("1 / 0"))
    assert raised[-1].finished.end == ex.EXECUTION_END_FAILED
    assert [event.output.error.ename for event in raised if event.output.HasField("error")] == ["ZeroDivisionError"]


def read_large(yard):
    """A large part of an output is fetched, from wherever one is."""
    outputs = [event.output for event in yard.execute(BLOB) if event.HasField("output")]
    (blob,) = [output.execute_result.data["text/html"].blob for output in outputs]
    assert blob.size == 300_000
    content = b""
    for chunk in yard.call(yard.executions.ReadBlob, ex.ReadBlobRequest(notebook_id=NOTEBOOK, digest=blob.digest)):
        content += chunk.content
        if len(content) < blob.size:
            break  # as if the connection had broken
    rest = ex.ReadBlobRequest(notebook_id=NOTEBOOK, digest=blob.digest, offset=len(content))
    for chunk in yard.call(yard.executions.ReadBlob, rest):
        content += chunk.content
    assert content == b"x" * 300_000
    assert blob.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"


def answered(yard):
    """The code calls this client, and asks it for a line."""
    events = []
    for event in yard.execute(CALLS, host_calls=["add"], answers_input=True):
        events.append(event)
        answer = None
        if event.HasField("host_call"):
            call = event.host_call
            assert call.name == "add"
            total = json.loads(call.args_json)[0] + json.loads(call.kwargs_json)["b"]
            answer = {"call_id": call.call_id, "value_json": json.dumps(total)}
        elif event.HasField("input_requested"):
            assert event.input_requested.prompt == "name? "
            answer = {"call_id": event.input_requested.call_id, "text": "nobody"}
        if answer is not None:
            request = ex.AnswerCall(
                notebook_id=NOTEBOOK,
                execution_id=events[0].accepted.execution_id,
                request_id=new("r"),
                **answer,
            )
            assert yard.call(yard.executions.Answer, request).accepted
    assert "5 nobody\n" in printed(events)


def resumed(yard, address, token):
    """The connection is lost in the middle, and another one goes on where it was: nothing twice, nothing missing."""
    begun = []
    broken = Yard(address, token)
    for event in broken.execute(TWICE, answers_input=True):
        begun.append(event)
        if event.HasField("input_requested"):
            break
    broken.channel.close()

    seen = [event.seq for event in begun if event.seq]
    execution_id = begun[0].accepted.execution_id
    rest = ex.AttachExecution(notebook_id=NOTEBOOK, execution_id=execution_id, after_seq=seen[-1], session_id=SESSION)
    answer = ex.AnswerCall(
        notebook_id=NOTEBOOK,
        execution_id=execution_id,
        call_id=begun[-1].input_requested.call_id,
        request_id=new("r"),
        text="on",
    )
    stream = yard.call(yard.executions.Attach, rest)
    assert yard.call(yard.executions.Answer, answer).accepted
    ended = list(stream)
    numbers = seen + [event.seq for event in ended if event.seq]
    assert numbers == list(range(1, len(numbers) + 1)), numbers
    assert "one\n" in printed(begun)
    assert "on\n" in printed(ended)
    assert ended[-1].finished.end == ex.EXECUTION_END_SUCCEEDED


def interrupted(yard):
    """Code that would run for long ends when it is told to."""
    events = []
    for event in yard.execute(LONG):
        events.append(event)
        if event.output.stream.text.startswith("begun"):
            yard.call(
                yard.kernels.Interrupt,
                ke.InterruptKernel(notebook_id=NOTEBOOK, request_id=new("r"), session_id=SESSION),
            )
    assert events[-1].finished.end == ex.EXECUTION_END_INTERRUPTED


def carried(yard):
    """A file goes in in parts, and comes out as it was."""
    content = bytes(range(256)) * 8192
    half = len(content) // 2

    def parts():
        yield fi.UploadPart(begin=fi.UploadBegin(notebook_id=NOTEBOOK, path="in/data.bin", size=len(content)))
        yield fi.UploadPart(content=content[:half])
        yield fi.UploadPart(content=content[half:])

    assert list(yard.call(yard.files.Upload, parts()))[-1].done
    come = list(yard.call(yard.files.Download, fi.DownloadFile(notebook_id=NOTEBOOK, path="in/data.bin")))
    assert come[-1].last
    assert b"".join(part.content for part in come) == content
    climbing = fi.DownloadFile(notebook_id=NOTEBOOK, path="../etc/passwd")
    assert refusal(yard.files.Download, climbing, yard.metadata)[:2] == ("INVALID_ARGUMENT", "INVALID_REQUEST")


def exported(yard):
    """The notebook as Jupyter would save it."""
    chunks = list(yard.call(yard.notebooks.Export, nb.ExportRequest(notebook_id=NOTEBOOK)))
    assert chunks[-1].last
    notebook = json.loads(b"".join(chunk.content for chunk in chunks))
    assert (notebook["nbformat"], notebook["cells"][0]["source"]) == (4, "'hello'")


def main():
    _, _, endpoint, address = sys.argv
    local = Yard(endpoint)
    yard = introduced(local, address)
    token = yard.metadata[0][1].removeprefix("Bearer ")
    said(introduced)
    cell_id = edited(yard)
    said(edited)
    presence = present(yard)
    watching = Watching(yard)
    snapshot = watching.until(lambda event: event.HasField("snapshot_end"))
    assert [event.cell_changed.cell.cell_id for event in snapshot if event.HasField("cell_changed")] == [cell_id]
    ran(yard, cell_id)
    said(ran)
    watching.until(
        lambda event: event.HasField("execution_changed") and event.execution_changed.event.HasField("output")
    )
    for step in (read_large, answered, interrupted, carried, exported):
        step(yard)
        said(step)
    resumed(yard, address, token)
    said(resumed)

    assert yard.call(yard.sessions.Close, se.CloseSession(notebook_id=NOTEBOOK, session_id=SESSION)).kernel_shut_down
    watching.until(lambda event: event.kernel_changed.end_reason == "shutdown")
    yard.call(yard.notebooks.Delete, nb.DeleteNotebook(notebook_id=NOTEBOOK, request_id=new("r")))
    watching.join(WITHIN)
    assert watching.ended == "NOT_FOUND", watching.ended
    presence.cancel()
    said(main)


def said(step):
    print(step.__name__, flush=True)


main()
