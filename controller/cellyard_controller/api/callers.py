"""Who calls: a tenant, proven by a token, or the operator over a unix socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
import structlog

from cellyard_controller.api import scopes
from cellyard_controller.api.arrivals import Arrivals
from cellyard_controller.api.counts import Calls
from cellyard_controller.errors import PermissionDenied, Stopping, Unauthenticated
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.store import Store, StoreFailed
from cellyard_controller.tenants import records, tokens
from cellyard_controller.tenants.allowances import Allowances
from cellyard_controller.tenants.audit import Audit
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.tenants.tokens import Scope, Token
from cellyard_controller.tracing import Traces

log = structlog.get_logger()

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_LOOK_EVERY = 0.5
"""Seconds between two looks for streams whose token has expired, and for what another controller has changed."""
_NOTE_USE_EVERY = 60.0
_BEGIN_WORK = frozenset(
    (
        "Executions.Enqueue",
        "Executions.Execute",
        "Kernels.Install",
        "Kernels.Restart",
        "Processes.Exec",
    )
)
"""What a controller that drains refuses: these begin something that would not come to its end."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and how they came."""

    tenant: TenantName
    over_unix: bool
    token: Token | None = None
    address: str = ""
    """Where the call comes from, as gRPC writes it."""

    @property
    def operator(self) -> bool:
        """The operator: over a unix socket, without a token."""
        return self.tenant == LOCAL and self.over_unix

    def must_be_operator(self) -> None:
        """Raises PermissionDenied for everybody else."""
        if not self.operator:
            raise PermissionDenied("only the operator may do this, over a unix socket without a token")

    def may(self, scope: Scope) -> bool:
        """Whether the caller may do what needs this scope."""
        return self.token is None or self.token.scope.allows(scope)


class Access:
    """Tokens in force, and the streams that are open under them."""

    def __init__(
        self,
        store: Store,
        quotas: Quotas,
        allowances: Allowances,
        audit: Audit,
        arrivals: Arrivals,
        traces: Traces | None = None,
    ) -> None:
        """`quotas` is refreshed whenever tenants change."""
        self.traces = traces
        self.arrivals = arrivals
        self.calls = Calls()
        """What happened to calls."""
        self._store, self._allowances = store, allowances
        self.quotas, self.audit = quotas, audit
        self._tokens: dict[bytes, Token] = {}
        self._by_id: dict[str, Token] = {}
        self._streams: dict[str, set[asyncio.Task[Any]]] = {}
        self._used: dict[str, float] = {}
        self._used_noted = time.time()
        self._version = ""
        self.stopping = asyncio.Event()
        """Set when the controller goes: new calls are refused, idle streams end."""
        self.draining = False
        """Set before that: what begins something new is refused, and what goes on may come to its end."""

    async def load(self) -> None:
        """Reads tokens and quotas; streams under tokens that are no longer in force are ended."""
        self._version = await self._store.read(records.version)  # before the rest: what comes between is read again
        self._tokens = await self._store.read(tokens.stored)
        self._by_id = {token.token_id: token for token in self._tokens.values()}
        self.quotas.refresh(await self._store.read(records.overrides))
        self._end_streams()

    async def keep(self) -> None:
        """Ends the streams of tokens that expire, and notes which tokens are used, until cancelled.

        Where several controllers share the store, it also takes over what another one has changed.
        """
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            if self._streams:
                self._end_streams()
            if self._store.node:
                await self._load_again()
            if time.time() >= self._used_noted + _NOTE_USE_EVERY:
                await self.note_used()

    async def _load_again(self) -> None:
        try:
            if await self._store.read(records.version) != self._version:
                await self.load()
        except StoreFailed as failed:
            log.warning("what changed of tenants is not read", why=str(failed))

    async def note_used(self) -> None:
        """Writes down which tokens were used."""
        used, self._used, self._used_noted = self._used, {}, time.time()
        try:
            if used:
                await self._store.write(partial(tokens.note_used, used=used))
        except StoreFailed as failed:
            log.warning("the use of tokens is not noted", why=str(failed))

    def caller(self, context: Context) -> Caller:
        """Who calls. Raises Stopping, and Unauthenticated: a wrong token and a missing one answer alike."""
        if self.stopping.is_set():
            raise Stopping("the controller is stopping")
        address = unquote(context.peer())
        over_unix = address.startswith("unix:")
        given = None
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                given = value
        if given is None:
            if over_unix:
                return Caller(LOCAL, over_unix, address=address)
            raise Unauthenticated
        token = self._token(given if isinstance(given, str) else given.decode("latin-1"), context)
        return Caller(token.tenant, over_unix, token, address)

    def begins(self) -> None:
        """Something new would begin. Raises Stopping where the controller drains."""
        if self.draining:
            raise Stopping("the controller is draining: it is about to stop and begins nothing new")

    def admit(self, caller: Caller, method: str) -> None:
        """Whether the caller may call this method (`Notebooks.GetCell`) now.

        Raises QuotaExceeded for too many requests, PermissionDenied where the token's scope is too small, Stopping
        where it would begin something and the controller drains.
        """
        if method in _BEGIN_WORK:
            self.begins()
        if caller.token is None:
            return
        self._allowances.request(caller.tenant)
        needed = scopes.needed(method)
        if not caller.may(needed):
            token = caller.token
            raise PermissionDenied(
                f"the token {token.token_id} has the scope {token.scope!s}, and {method} needs {needed!s}",
                scope=str(token.scope),
                needed=str(needed),
            )

    @contextmanager
    def stream(self, caller: Caller) -> Iterator[None]:
        """While a stream is open it ends when its token is revoked or expires."""
        if caller.token is None:
            yield
            return
        task = asyncio.current_task()
        assert task is not None
        token_id = caller.token.token_id
        self._streams.setdefault(token_id, set()).add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._in_force(token_id, time.time()):
                raise Unauthenticated from None
            raise
        finally:
            streams = self._streams.get(token_id, set())
            streams.discard(task)
            if not streams:
                self._streams.pop(token_id, None)

    def token(self, given: str, certificate_names: Callable[[], Collection[str]] = tuple) -> Token:
        """The token behind a text. Raises Unauthenticated.

        `certificate_names`: what is proven of the client, which a token may be bound to.
        """
        if len(given) > tokens.MAX_TOKEN:
            raise Unauthenticated
        token, now = self._tokens.get(tokens.digest(given)), time.time()
        if token is None or not token.in_force(now):
            raise Unauthenticated
        if token.certificate and token.certificate not in certificate_names():
            raise Unauthenticated
        self._used[token.token_id] = now
        return token

    def in_force(self, token_id: str) -> bool:
        """Whether a token is neither revoked nor expired."""
        return self._in_force(token_id, time.time())

    def _token(self, text: str, context: Context) -> Token:
        scheme, _, given = text.partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated
        return self.token(given, partial(_certificate_names, context))

    def _end_streams(self) -> None:
        now = time.time()
        for token_id in [each for each in self._streams if not self._in_force(each, now)]:
            for stream in self._streams.pop(token_id):  # once: what they do in their end must not be cancelled
                stream.cancel()

    def _in_force(self, token_id: str, now: float) -> bool:
        token = self._by_id.get(token_id)
        return token is not None and token.in_force(now)


def _certificate_names(context: Context) -> set[str]:
    """The names in the client's certificate, which the handshake has proven; none without one."""
    proven = context.auth_context()
    names = (*proven.get("x509_common_name", ()), *proven.get("x509_subject_alternative_name", ()))
    return {name.decode(errors="replace") for name in names}
