"""Workflows and artifacts: what code mode keeps for a tenant."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from cellyard_controller import json_text
from cellyard_controller.api import requests
from cellyard_controller.api.access import Access, Caller, intake, stream, unary
from cellyard_controller.config import Config
from cellyard_controller.errors import ArtifactInvalid, InvalidRequest
from cellyard_controller.library import artifacts as kept
from cellyard_controller.library import serving, workflows
from cellyard_controller.library.artifact_records import ArtifactRecord
from cellyard_controller.library.places import Place
from cellyard_controller.library.workflow_records import WorkflowRecord
from cellyard_controller.store.requests import Request
from cellyard_proto import values
from cellyard_proto.codemode.artifacts import MAX_METADATA
from cellyard_proto.v1 import library_pb2 as pb
from cellyard_proto.v1 import library_pb2_grpc

_PART = 1024 * 1024
"""Bytes of one part of an artifact on its way in, at most."""
_PIECE = 256 * 1024
"""Bytes of one on its way out."""
_FOUND = 10
_Record = TypeVar("_Record")
_Message = TypeVar("_Message")


class Workflows(library_pb2_grpc.WorkflowsServicer):
    """The Workflows service."""

    def __init__(self, access: Access, library: serving.Library, config: Config) -> None:
        self.access, self._workflows, self._config = access, library.workflows, config

    @unary
    async def List(self, message: pb.ListWorkflows, caller: Caller) -> pb.ListWorkflowsResponse:  # noqa: N802
        """Those of a workspace."""
        place, limit = Place(caller.tenant, message.workspace_id), _limit(message.limit, workflows.PAGE)
        with_sources = message.with_sources
        found, more = await self._workflows.page(place, limit, message.after_name, sources=with_sources)
        return pb.ListWorkflowsResponse(workflows=await _each(_workflow, found), more=more)

    @unary
    async def Get(self, message: pb.GetWorkflow, caller: Caller) -> pb.Workflow:  # noqa: N802
        """One with its source."""
        return _workflow(await self._workflows.get(Place(caller.tenant, message.workspace_id), message.name))

    @unary
    async def Put(self, message: pb.PutWorkflow, caller: Caller) -> pb.Workflow:  # noqa: N802
        """Keeps one."""
        place = Place(caller.tenant, message.workspace_id)
        request = requests.request(message, message.request_id, self._config)
        kept = await self._workflows.put(place, message.name, message.source, message.description, request)
        return _workflow(kept)

    @unary
    async def Remove(self, message: pb.RemoveWorkflow, caller: Caller) -> pb.RemoveWorkflowResponse:  # noqa: N802
        """Takes one away."""
        place = Place(caller.tenant, message.workspace_id)
        request = requests.request(message, message.request_id, self._config)
        return pb.RemoveWorkflowResponse(removed=await self._workflows.remove(place, message.name, request))

    @unary
    async def Search(self, message: pb.SearchWorkflows, caller: Caller) -> pb.SearchWorkflowsResponse:  # noqa: N802
        """Those that fit."""
        place, limit = Place(caller.tenant, message.workspace_id), _limit(message.limit or _FOUND, workflows.PAGE)
        found = await self._workflows.search(place, message.query, limit)
        return pb.SearchWorkflowsResponse(workflows=await _each(_workflow, found))


class Artifacts(library_pb2_grpc.ArtifactsServicer):
    """The Artifacts service."""

    def __init__(self, access: Access, library: serving.Library, config: Config) -> None:
        self.access, self._artifacts, self._config = access, library.artifacts, config

    @unary
    async def List(self, message: pb.ListArtifacts, caller: Caller) -> pb.ListArtifactsResponse:  # noqa: N802
        """Those of a workspace."""
        place, limit = Place(caller.tenant, message.workspace_id), _limit(message.limit, kept.PAGE)
        found, more = await self._artifacts.page(place, limit, message.after_name)
        return pb.ListArtifactsResponse(artifacts=await _each(_artifact, found), more=more)

    @unary
    async def Get(self, message: pb.GetArtifact, caller: Caller) -> pb.Artifact:  # noqa: N802
        """What is known of one."""
        return _artifact(await self._artifacts.get(Place(caller.tenant, message.workspace_id), message.name))

    @intake
    async def Write(self, messages: AsyncIterator[pb.WriteArtifact], caller: Caller) -> pb.Artifact:  # noqa: N802
        """Keeps one."""
        first = await anext(aiter(messages), pb.WriteArtifact())
        if first.WhichOneof("part") != "begin":
            raise InvalidRequest("the first part of an artifact says what comes")
        begin = first.begin
        place = Place(caller.tenant, begin.workspace_id)
        said = kept.about(begin.name, begin.type, begin.description, _metadata(begin.metadata_json))
        async with self._artifacts.writing(place, said, begin.size) as writing:
            async for part in messages:
                content = part.content
                if part.WhichOneof("part") != "content" or not 0 < len(content) <= _PART:
                    raise InvalidRequest(f"a part of an artifact has 1 to {_PART} bytes")
                await writing.add(content)
            digest = await writing.finish()
            asked = requests.request(begin, begin.request_id, self._config)
            request = Request(asked.request_id, hashlib.sha256(asked.digest + digest.encode()).digest())
            return _artifact(await self._artifacts.keep(place, said, writing, digest, request))

    @stream
    async def Read(self, message: pb.ReadArtifact, caller: Caller) -> AsyncIterator[pb.ArtifactPart]:  # noqa: N802
        """The content."""
        found, file = await self._artifacts.read(Place(caller.tenant, message.workspace_id), message.name)
        with file:
            yield pb.ArtifactPart(about=_artifact(found))
            while content := await asyncio.to_thread(file.read, _PIECE):
                yield pb.ArtifactPart(content=content)
        yield pb.ArtifactPart(last=True)

    @unary
    async def Remove(self, message: pb.RemoveArtifact, caller: Caller) -> pb.RemoveArtifactResponse:  # noqa: N802
        """Takes one away."""
        place = Place(caller.tenant, message.workspace_id)
        request = requests.request(message, message.request_id, self._config)
        return pb.RemoveArtifactResponse(removed=await self._artifacts.remove(place, message.name, request))


async def _each(told: Callable[[_Record], _Message], found: Sequence[_Record]) -> list[_Message]:
    """What is told of each; of many that takes a while."""
    return await asyncio.to_thread(lambda: [told(each) for each in found])


def _limit(given: int, most: int) -> int:
    if given < 0:
        raise InvalidRequest("a limit is not negative")
    return min(given or most, most)


def _metadata(text: str) -> object:
    if len(text) > 2 * MAX_METADATA:  # it may be written less tightly than it is counted
        raise ArtifactInvalid(f"the metadata takes more than {MAX_METADATA} bytes")
    try:
        return json_text.parse(text) if text else {}
    except ValueError as bad:
        raise ArtifactInvalid(f"the metadata is no JSON: {bad}") from None


def _workflow(record: WorkflowRecord) -> pb.Workflow:
    about = record.as_data()
    parameters = [
        pb.WorkflowParameter(
            name=each["name"],
            type=each["type"],
            description=each["description"],
            required=each["required"],
            default_json="" if each["required"] else values.encode(each["default"]),
        )
        for each in about["parameters"]
    ]
    return pb.Workflow(
        name=record.name,
        description=about["description"],
        source=record.source,
        parameters=parameters,
        described=bool(record.given),
    )


def _artifact(record: ArtifactRecord) -> pb.Artifact:
    return pb.Artifact(
        name=record.name,
        type=record.type,
        description=record.description,
        metadata_json=json.dumps(dict(record.metadata)),
        created_at=record.created_at,
        size=record.size,
    )
