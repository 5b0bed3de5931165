"""Sections of the configuration on what clients may do and have."""

from __future__ import annotations

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
)

from cellyard_controller.config.fields import Positive, Section, Size
from cellyard_controller.runtimes import MIB
from cellyard_controller.tenants import quotas


class SessionsConfig(Section):
    """Presence of clients."""

    grace: Positive = Field(default=30.0, description="A client that vanished counts as gone after this.")


class LimitsConfig(Section):
    """What one request or one execution may be."""

    source: Size = Field(default=4 * MIB, description="Source of a cell; of an imported notebook, all together.")
    notebook: Size = Field(default=32 * MIB, description="A notebook to import, as JSON.")
    identifier: Size = Field(default=256, description="Characters of an id.")
    metadata: Size = Field(default=1 * MIB, description="One value of metadata.")
    output_bytes: Size = Field(default=16 * MIB, description="Output of one execution.")
    output_count: Size = Field(default=10_000, description="Outputs of one execution.")
    answer: Size = Field(default=16 * MIB, description="Answer to a call of the code, or a comm's message.")
    file: Size = Field(default=100 * MIB, description="A file that is uploaded or downloaded.")
    command_output: Size = Field(default=16 * MIB, description="Output of a command beside the kernel.")
    files: Size = Field(default=10 * MIB, description="Files that travel with a request, all together.")
    calls: Size = Field(default=10_000, description="Calls of one tenant at a time, open streams among them.")
    feeds: Size = Field(default=256, description="Uploads, commands and live replicas of one tenant at a time.")
    arrival: Positive = Field(default=60.0, description="From a call's begin until its request is there.")


class ReplicasConfig(Section):
    """Live replicas of documents: the process that reads what they send, and what they may send."""

    streams: Size = Field(default=64, description="Live replicas of one notebook.")
    memory: Size = Field(default=1024 * MIB, description="Memory of the worker that reads what replicas send.")
    deadline: Positive = Field(default=10.0, description="Work on one message.")
    load_deadline: Positive = Field(default=60.0, description="Loading a document into the worker.")
    message: Size = Field(default=16 * MIB, description="One message of a replica, or to it.")
    changes: Size = Field(default=50_000, description="Changes in one message.")
    operations: Size = Field(default=500_000, description="Operations in one message; a character is one.")
    operations_at_once: Size = Field(default=50_000, description="Operations in one change.")
    document: Size = Field(default=64 * MIB, description="All changes of a document that replicas may add to.")


class LibraryConfig(Section):
    """Workflows and artifacts that are kept for code mode: of each tenant, in all of its workspaces."""

    workflows: Size = Field(default=10_000, description="Workflows.")
    sources: Size = Field(default=64 * MIB, description="All workflows of a tenant, with what is said of them.")
    artifacts: Size = Field(default=100_000, description="Artifacts.")
    artifact: Size = Field(default=1024 * MIB, description="The content of one artifact.")


class QuotasConfig(Section):
    """What each tenant may have for whom nothing else was set; null, or "unlimited", is no limit. Not of `local`."""

    sandboxes: int | None = Field(default=None, description="Sandboxes that run or start.")
    memory: int | None = Field(default=None, description="Memory of its sandboxes, all together.")
    cpu: float | None = Field(default=None, description="Processors of its sandboxes, all together.")
    queued: int | None = Field(default=None, description="Executions that wait, in all of its notebooks.")
    notebooks: int | None = Field(default=None, description="Notebooks that are kept.")
    storage: int | None = Field(
        default=None, description="What is kept of documents, sources, outputs, workflows and artifacts."
    )
    rate: float | None = Field(default=None, description="Requests a second.")

    @field_validator("*", mode="before")
    @classmethod
    def _as_operators_write_it(cls, value: object, info: ValidationInfo) -> quotas.Limit:
        assert info.field_name is not None
        return quotas.parse(info.field_name, value)

    @property
    def quota(self) -> quotas.Quota:
        """The quotas as the rest of the controller takes them."""
        return quotas.Quota(**self.model_dump())
