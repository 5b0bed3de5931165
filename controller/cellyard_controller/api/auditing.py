"""What the audit log says of a call: who made it, from where, about what, and what came of it. Never its content."""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol
from urllib.parse import unquote

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from structlog.contextvars import bind_contextvars

from cellyard_controller.api import scopes
from cellyard_controller.api.callers import Caller
from cellyard_controller.errors import Refused
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tenants.tokens import Scope

_LOOKING = frozenset(
    (
        *(f"Kernels.{name}" for name in ("Complete", "Inspect", "History", "IsComplete", "Info", "ListInstalled")),
        "Files.List",
    )
)
_LOOKING_OPERATOR = frozenset(("Tenants.List", "Tenants.ListTokens"))
_DENIED = frozenset(("UNAUTHENTICATED", "PERMISSION_DENIED"))
_IDS = ("notebook_id", "cell_id", "execution_id", "sandbox_id", "session_id", "request_id", "path", "size", "token_id")
_NAMED = ("notebook_id", "execution_id", "sandbox_id")
"""By which lines of the log and spans are found."""
_LONGEST_ID = 256
_NAMES = ("workspace_id", "name")
"""What workflows and artifacts are called."""
_WITHIN = frozenset(("begin", "start", "open", "source"))
"""Fields whose message tells what a call is about."""


class Peer(Protocol):
    """Where a call comes from, as gRPC's contexts tell it."""

    def peer(self) -> str: ...


class Noted:
    """One call, to be noted when it is known what came of it."""

    def __init__(self, audit: Audit, method: str, context: Peer, **how: str) -> None:
        """`how` a call comes is noted where it is not gRPC."""
        self._audit, self._method, self._context = audit, method, context
        self._how = how
        self._about: dict[str, Any] = {}
        self.ids: dict[str, str] = {}
        """What it is about, by its ids: for whoever reads logs and traces."""
        self._done = False
        self.caller: Caller | None = None

    def about(self, message: Message) -> None:
        """What is asked for."""
        about = subject(message)
        if acts(self._method):
            self._about = about
        self.ids = {name: about[name][:_LONGEST_ID] for name in _NAMED if name in about}
        bind_contextvars(tenant=self.caller.tenant if self.caller is not None else "", **self.ids)

    def done(self, answer: Any = None) -> None:
        """It is carried out, or a stream has begun to be. Only the first time counts."""
        if self._done or not acts(self._method):
            return
        self._done = True
        if (execution_id := getattr(getattr(answer, "accepted", answer), "execution_id", "")) and self.ids:
            self.ids["execution_id"] = execution_id
            bind_contextvars(execution_id=execution_id)
        if administers(self._method):
            made = {"token_id": getattr(answer, "token_id", "")}
        else:
            made = {"execution_id": execution_id}
        about = self._about | {key: value for key, value in made.items() if value}
        self._audit.note(self._method, about=about, outcome="ok", **self._who())

    def refused(self, refused: Refused) -> None:
        """It is refused."""
        if self._done or not (acts(self._method) or refused.reason in _DENIED):
            return
        note = self._audit.note if refused.reason not in (*_DENIED, "QUOTA_EXCEEDED") else self._audit.refused
        note(self._method, about=self._about, outcome=refused.reason.lower(), **self._who())

    def failed(self) -> None:
        """It went wrong in the controller."""
        if not self._done and acts(self._method):
            self._audit.note(self._method, about=self._about, outcome="internal_error", **self._who())

    def _who(self) -> dict[str, str]:
        caller = self.caller
        if caller is None:
            return {"tenant": "", "from": unquote(self._context.peer()), **self._how}
        token = caller.token.token_id if caller.token is not None else ""
        return {"tenant": caller.tenant, "token": token, "from": caller.address, **self._how}


@cache
def acts(method: str) -> bool:
    """Whether a method does something that is noted whatever comes of it."""
    return scopes.needed(method) is not Scope.READ and method not in _LOOKING | _LOOKING_OPERATOR


def administers(method: str) -> bool:
    """Whether what a method did is to be on disk before it is answered."""
    return method.startswith("Tenants.") and acts(method)


def subject(message: Message) -> dict[str, Any]:
    """What a message is about: its ids, and no content."""
    found: dict[str, Any] = {}
    ids, within = _fields(message.DESCRIPTOR)
    for name in within:
        if message.HasField(name):
            found |= subject(getattr(message, name))
    for name in ids:
        value = getattr(message, name)
        if value:
            found[name] = value
    kind = message.DESCRIPTOR.name
    if message.DESCRIPTOR.file.name.endswith("/tenants.proto"):
        found |= _of_a_tenant(message)
    elif message.DESCRIPTOR.file.name.endswith("/library.proto"):
        found |= {key: value for key in _NAMES if (value := getattr(message, key, ""))}
    elif kind == "ExecStart":
        argv = list(getattr(message, "argv", ()))
        found |= {"program": argv[0] if argv else "", "arguments": max(0, len(argv) - 1)}
    return found


@cache
def _fields(kind: Descriptor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    single = {field.name: field for field in kind.fields if not field.is_repeated}
    within = tuple(name for name, field in single.items() if name in _WITHIN and field.message_type is not None)
    return tuple(name for name in _IDS if name in single and single[name].message_type is None), within


def _of_a_tenant(message: Any) -> dict[str, Any]:
    fields = message.DESCRIPTOR.fields_by_name
    found: dict[str, Any] = {"of": getattr(message, "name", "") or getattr(message, "tenant", "")}
    if "quotas" in fields and message.quotas:
        found["quotas"] = dict(message.quotas)
    if "grant" in fields and message.HasField("grant"):
        found |= {"scope": message.grant.scope, "certificate": message.grant.certificate}
    return found
