"""Tenants: added, bounded and revoked by the operator; each may ask about itself."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from cellyard_controller.api.access import Access, Caller, unary
from cellyard_controller.executions import usage
from cellyard_controller.ids import LOCAL, TenantName
from cellyard_controller.store import Store
from cellyard_controller.tenants import kept, records
from cellyard_controller.tenants.quotas import Quotas
from cellyard_controller.tenants.records import TenantRecord
from cellyard_controller.tenants.tokens import Grant, Scope, Token
from cellyard_proto.v1 import tenants_pb2 as pb
from cellyard_proto.v1 import tenants_pb2_grpc

_BYTES = {"memory": "memory_bytes", "storage": "storage_bytes"}


class Tenants(tenants_pb2_grpc.TenantsServicer):
    """The Tenants service."""

    def __init__(self, access: Access, store: Store) -> None:
        self.access, self._store = access, store

    @unary
    async def Create(self, message: pb.CreateTenant, caller: Caller) -> pb.CreateTenantResponse:  # noqa: N802
        """Adds a tenant."""
        caller.must_be_operator()
        changes, grant = dict(message.quotas), _grant(message.grant)
        issued = await self._store.write(partial(records.create, name=message.name, changes=changes, grant=grant))
        await self.access.load()
        return pb.CreateTenantResponse(token=issued.token, token_id=issued.token_id)

    @unary
    async def List(self, message: pb.ListTenants, caller: Caller) -> pb.ListTenantsResponse:  # noqa: N802
        """All tenants."""
        caller.must_be_operator()
        found = await self._store.read(records.listed)
        return pb.ListTenantsResponse(tenants=[_tenant(each, self.access.quotas) for each in found])

    @unary
    async def Get(self, message: pb.GetTenant, caller: Caller) -> pb.Tenant:  # noqa: N802
        """One tenant; the caller itself, or any for the operator."""
        name = message.name or caller.tenant
        if name != caller.tenant:
            caller.must_be_operator()
        if name == LOCAL:
            return pb.Tenant(name=LOCAL, quotas=pb.Quotas())
        return _tenant(await self._store.read(partial(records.find, name=name)), self.access.quotas)

    @unary
    async def SetQuotas(self, message: pb.SetTenantQuotas, caller: Caller) -> pb.Tenant:  # noqa: N802
        """Changes what a tenant may have."""
        caller.must_be_operator()
        changes = dict(message.quotas)
        record = await self._store.write(partial(records.set_quotas, name=message.name, changes=changes))
        await self.access.load()
        return _tenant(record, self.access.quotas)

    @unary
    async def IssueToken(self, message: pb.IssueTokenRequest, caller: Caller) -> pb.IssueTokenResponse:  # noqa: N802
        """Another token of a tenant."""
        caller.must_be_operator()
        issued = await self._store.write(partial(records.issue, name=message.tenant, grant=_grant(message.grant)))
        await self.access.load()
        return pb.IssueTokenResponse(token=issued.token, token_id=issued.token_id)

    @unary
    async def ListTokens(self, message: pb.ListTokensRequest, caller: Caller) -> pb.ListTokensResponse:  # noqa: N802
        """A tenant's tokens."""
        caller.must_be_operator()
        await self.access.note_used()
        found = await self._store.read(partial(records.tokens_of, name=message.tenant))
        return pb.ListTokensResponse(tokens=[_token(each) for each in found])

    @unary
    async def Revoke(self, message: pb.RevokeTenant, caller: Caller) -> pb.RevokeTenantResponse:  # noqa: N802
        """Takes tokens away."""
        caller.must_be_operator()
        await self._store.write(partial(records.revoke, name=message.name, token_id=message.token_id))
        await self.access.load()
        return pb.RevokeTenantResponse()

    @unary
    async def GetUsage(self, message: pb.GetUsageRequest, caller: Caller) -> pb.GetUsageResponse:  # noqa: N802
        """What was used, and what is kept."""
        tenant = TenantName(message.tenant) or (None if caller.operator else caller.tenant)
        if tenant != caller.tenant:
            caller.must_be_operator()
        if tenant is not None:
            await self._store.read(partial(records.require_any, name=tenant))
        select = partial(usage.by_day, tenant=tenant, first=message.from_day, last=message.to_day)
        days = await self._store.read(select)
        owners = [tenant] if tenant is not None else await self._store.read(kept.owners)
        keeping = [
            await self._store.read(partial(kept.measured, blobs=self._store.blobs, tenant=owner)) for owner in owners
        ]
        return pb.GetUsageResponse(
            days=[pb.DayOfUsage(**asdict(day)) for day in days], kept=[pb.Kept(**asdict(each)) for each in keeping]
        )


def _grant(message: pb.TokenGrant) -> Grant:
    expires = message.expires_in_s if message.HasField("expires_in_s") else None
    return Grant(message.name, message.scope or Scope.FULL, expires, message.certificate)


def _tenant(record: TenantRecord, quotas: Quotas) -> pb.Tenant:
    limits = asdict(quotas.merged(record.quotas))
    return pb.Tenant(
        name=record.name,
        created_at=record.created_at,
        tokens=record.tokens,
        quotas=pb.Quotas(**{_BYTES.get(key, key): limit for key, limit in limits.items() if limit is not None}),
        quotas_set=sorted(record.quotas),
    )


def _token(token: Token) -> pb.Token:
    return pb.Token(
        token_id=token.token_id,
        name=token.name,
        scope=token.scope,
        certificate=token.certificate,
        created_at=token.created_at,
        expires_at=token.expires_at or 0.0,
        used_at=token.used_at,
    )
