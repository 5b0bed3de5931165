"""Tenants: added and revoked by the operator."""

from __future__ import annotations

from functools import partial

from cellyard_controller.api.access import Access, Caller, unary
from cellyard_controller.store import Store
from cellyard_controller.tenants import tokens
from cellyard_proto.v1 import tenants_pb2 as pb
from cellyard_proto.v1 import tenants_pb2_grpc


class Tenants(tenants_pb2_grpc.TenantsServicer):
    """The Tenants service."""

    def __init__(self, access: Access, store: Store) -> None:
        self.access, self._store = access, store

    @unary
    async def Create(self, message: pb.CreateTenant, caller: Caller) -> pb.CreateTenantResponse:  # noqa: N802
        """Adds a tenant."""
        caller.must_be_operator()
        token = await self._store.write(partial(tokens.create, name=message.name))
        await self.access.load()
        return pb.CreateTenantResponse(token=token)

    @unary
    async def List(self, message: pb.ListTenants, caller: Caller) -> pb.ListTenantsResponse:  # noqa: N802
        """All tenants."""
        caller.must_be_operator()
        found = await self._store.read(tokens.listed)
        return pb.ListTenantsResponse(
            tenants=[pb.Tenant(name=each.name, created_at=each.created_at, tokens=each.tokens) for each in found]
        )

    @unary
    async def Revoke(self, message: pb.RevokeTenant, caller: Caller) -> pb.RevokeTenantResponse:  # noqa: N802
        """Takes a tenant's tokens away."""
        caller.must_be_operator()
        await self._store.write(partial(tokens.revoke, name=message.name))
        await self.access.load()
        return pb.RevokeTenantResponse()
