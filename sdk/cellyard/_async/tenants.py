"""A client's calls about tenants. All but `tenant` and `usage` of the caller itself are the operator's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from cellyard import _requests
from cellyard._async.calls import AsyncClientCalls
from cellyard.tenants import (
    IssuedToken,
    TenantInfo,
    TenantUsage,
    TokenInfo,
    tenant_info,
    tenant_usage,
    token_info,
)
from cellyard_proto.v1 import tenants_pb2

Quotas = Mapping[str, str | int | float | None]


class AsyncTenantCalls(AsyncClientCalls):
    """What a client does about tenants. Everybody but the operator is refused with PermissionDenied."""

    async def list_tenants(self) -> list[TenantInfo]:
        """All tenants, by name."""
        answer = await self._call(lambda s: s.tenants.List, tenants_pb2.ListTenants())
        return [tenant_info(found) for found in answer.tenants]

    async def tenant(self, name: str | None = None) -> TenantInfo:
        """One tenant; None for the caller itself, which everybody may ask about.

        Raises InvalidRequest for one that does not exist.
        """
        request = tenants_pb2.GetTenant(name="" if name is None else _requests.named("name", name))
        return tenant_info(await self._call(lambda s: s.tenants.Get, request))

    async def create_tenant(
        self,
        name: str,
        quotas: Quotas | None = None,
        *,
        scope: str = "full",
        expires_in: float | None = None,
        certificate: str | None = None,
    ) -> IssuedToken:
        """Adds a tenant and returns its first token. Quotas are as for `set_quotas`, the rest as for `issue_token`.

        Raises InvalidRequest for a name that is none, or taken.
        """
        request = tenants_pb2.CreateTenant(
            name=_requests.text("name", name),
            quotas=_requests.quotas(quotas),
            grant=_requests.grant("", scope, expires_in, certificate),
        )
        answer = await self._call(lambda s: s.tenants.Create, request)
        return IssuedToken(answer.token, answer.token_id)

    async def set_quotas(self, name: str, quotas: Quotas) -> TenantInfo:
        """Changes what a tenant may have, in force at once; those that are not named stay.

        Keys: sandboxes, memory, cpu, queued, notebooks, storage, rate. Values: numbers, sizes ("4GiB"), None or
        "unlimited", and "default" for what the controller's configuration says. `memory` and `storage` are bytes,
        `rate` is requests a second. Raises InvalidRequest for a tenant, a key or a value that is none.
        """
        request = tenants_pb2.SetTenantQuotas(name=_requests.named("name", name), quotas=_requests.quotas(quotas))
        return tenant_info(await self._call(lambda s: s.tenants.SetQuotas, request))

    async def issue_token(
        self,
        tenant: str,
        *,
        name: str = "",
        scope: str = "full",
        expires_in: float | None = None,
        certificate: str | None = None,
    ) -> IssuedToken:
        """Adds a token beside those that a tenant has.

        `scope`: "read", "run" or "full". `expires_in`: seconds from now. `certificate`: a name in the client's
        certificate without which the token is void. Raises InvalidRequest for a tenant that does not exist.
        """
        request = tenants_pb2.IssueTokenRequest(
            tenant=_requests.named("tenant", tenant), grant=_requests.grant(name, scope, expires_in, certificate)
        )
        answer = await self._call(lambda s: s.tenants.IssueToken, request)
        return IssuedToken(answer.token, answer.token_id)

    async def list_tokens(self, tenant: str) -> list[TokenInfo]:
        """A tenant's tokens without their secrets, oldest first. Raises InvalidRequest for no tenant."""
        request = tenants_pb2.ListTokensRequest(tenant=_requests.named("tenant", tenant))
        answer = await self._call(lambda s: s.tenants.ListTokens, request)
        return [token_info(found) for found in answer.tokens]

    async def revoke(self, tenant: str, token_id: str | None = None) -> None:
        """Takes one token of a tenant away, or all; open connections under them end.

        Raises InvalidRequest for a tenant that does not exist.
        """
        request = tenants_pb2.RevokeTenant(
            name=_requests.named("tenant", tenant),
            token_id="" if token_id is None else _requests.named("token_id", token_id),
        )
        await self._call(lambda s: s.tenants.Revoke, request)

    async def usage(
        self, tenant: str | None = None, from_day: date | None = None, to_day: date | None = None
    ) -> TenantUsage:
        """What was used by tenant and day (UTC, both included), and what is kept.

        Without a name it is the caller's own; for the operator everybody's.
        """
        request = tenants_pb2.GetUsageRequest(
            tenant="" if tenant is None else _requests.named("tenant", tenant),
            from_day="" if from_day is None else from_day.isoformat(),
            to_day="" if to_day is None else to_day.isoformat(),
        )
        return tenant_usage(await self._call(lambda s: s.tenants.GetUsage, request))
