"""Names for ids, so that a cell's id is never taken for a notebook's."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import NewType

TenantName = NewType("TenantName", str)
NotebookId = NewType("NotebookId", str)
NotebookKey = NewType("NotebookKey", int)
"""The store's own number for a (tenant, notebook id)."""
CellId = NewType("CellId", str)
ExecutionId = NewType("ExecutionId", str)
SessionId = NewType("SessionId", str)
SandboxId = NewType("SandboxId", str)

LABEL_NAME = r"[A-Za-z0-9_./-]{1,63}"
"""What names of notebooks' labels look like, as a regular expression."""

LOCAL = TenantName("local")
"""The operator's own tenant, over a unix socket without a token."""


@dataclass(frozen=True, slots=True)
class NotebookRef:
    """A notebook, named by tenant and id: another tenant's id does not exist."""

    tenant: TenantName
    notebook_id: NotebookId


def new_execution_id() -> ExecutionId:
    """A fresh execution id."""
    return ExecutionId(f"exec-{uuid.uuid4()}")


def new_sandbox_id() -> SandboxId:
    """A fresh sandbox id; short, because it stands in the path of a unix socket."""
    return SandboxId(f"sb-{uuid.uuid4().hex[:12]}")
