"""The operator's commands for tenants: who may use the controller, with what, and how much.

They go through the running controller of the data folder where there is one, so that they are in force at once; else
they write to the database themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cellyard_controller.cli_tables import moment, table, visible
from cellyard_controller.options import NO_CONTROLLER, USAGE, AsJson, Data, configuration, end

tenants = typer.Typer(no_args_is_help=True, help="Who may use the controller.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tenant's name.")]
Pairs = Annotated[
    list[str] | None,
    typer.Option("--quota", help="KEY=VALUE: sandboxes, memory, cpu, queued, notebooks, storage, rate; several."),
]
Scope = Annotated[str, typer.Option(help="What the token allows: read, run or full.")]
Expires = Annotated[str | None, typer.Option(help="When it expires, from now: 90d, 12h, 30min.", show_default="never")]
Certificate = Annotated[str, typer.Option(help="A name in the client's certificate without which the token is void.")]

_TIMEOUT = 10


@tenants.command("create")
def create(
    name: Name,
    quota: Pairs = None,
    scope: Scope = "full",
    expires: Expires = None,
    certificate: Certificate = "",
    data: Data = None,
) -> None:
    """Adds a tenant and prints its token, this once."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    changes, grant = _changes(quota or []), _grant("", scope, expires, certificate)
    issued = _administer(
        data,
        lambda connection, blobs: records.create(connection, name, changes, grant),
        lambda stub: stub.Create(pb.CreateTenant(name=name, quotas=changes, grant=_message(grant)), timeout=_TIMEOUT),
        noted="Tenants.Create",
        of=name,
    )
    typer.echo(issued.token)


@tenants.command("list")
def list_tenants(data: Data = None, as_json: AsJson = False) -> None:
    """All tenants, with the quotas that hold for them."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    rows = _administer(
        data,
        lambda connection, blobs: [_stored(each) for each in records.listed(connection)],
        lambda stub: [_told(each) for each in stub.List(pb.ListTenants(), timeout=_TIMEOUT).tenants],
    )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        table(("tenant", "tokens", "quotas"), [(row["name"], row["tokens"], _in_words(row)) for row in rows])


@tenants.command("quota")
def quota(
    name: Name,
    changes: Annotated[
        list[str] | None, typer.Argument(help="KEY=VALUE, unlimited and default are values too.")
    ] = None,
    quota: Pairs = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Changes what a tenant may have, and shows what holds for it."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    wanted = _changes([*(changes or []), *(quota or [])])
    row = _administer(
        data,
        lambda connection, blobs: _stored(records.set_quotas(connection, name, wanted)),
        lambda stub: _told(stub.SetQuotas(pb.SetTenantQuotas(name=name, quotas=wanted), timeout=_TIMEOUT)),
        noted="Tenants.SetQuotas",
        of=name,
    )
    typer.echo(json.dumps(row, indent=2) if as_json else _in_words(row))


@tenants.command("issue")
def issue(
    name: Name,
    scope: Scope = "full",
    expires: Expires = None,
    label: Annotated[str, typer.Option("--name", help="What people call the token.")] = "",
    certificate: Certificate = "",
    data: Data = None,
) -> None:
    """Adds a token beside those that a tenant has, and prints it, this once."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    grant = _grant(label, scope, expires, certificate)
    issued = _administer(
        data,
        lambda connection, blobs: records.issue(connection, name, grant),
        lambda stub: stub.IssueToken(pb.IssueTokenRequest(tenant=name, grant=_message(grant)), timeout=_TIMEOUT),
        noted="Tenants.IssueToken",
        of=name,
    )
    typer.echo(issued.token)


@tenants.command("tokens")
def list_tokens(name: Name, data: Data = None, as_json: AsJson = False) -> None:
    """A tenant's tokens, without their secrets."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    found = _administer(
        data,
        lambda connection, blobs: records.tokens_of(connection, name),
        lambda stub: list(stub.ListTokens(pb.ListTokensRequest(tenant=name), timeout=_TIMEOUT).tokens),
    )
    fields = ("token_id", "name", "scope", "certificate", "created_at", "expires_at", "used_at")
    rows = [{field: getattr(each, field) or None for field in fields} for each in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table(
        ("token", "scope", "expires", "used", "name"),
        [
            (row["token_id"], row["scope"], moment(row["expires_at"]), moment(row["used_at"]), row["name"])
            for row in rows
        ],
    )


@tenants.command("revoke")
def revoke(
    name: Name,
    token: Annotated[str, typer.Option("--token", help="The id of one token.", show_default="all of them")] = "",
    data: Data = None,
) -> None:
    """Takes a tenant's tokens away, or one of them; open connections end."""
    from cellyard_controller.tenants import records
    from cellyard_proto.v1 import tenants_pb2 as pb

    _administer(
        data,
        lambda connection, blobs: records.revoke(connection, name, token),
        lambda stub: stub.Revoke(pb.RevokeTenant(name=name, token_id=token), timeout=_TIMEOUT),
        noted="Tenants.Revoke",
        of=name,
    )


@tenants.command("usage")
def usage(
    name: Annotated[str, typer.Argument(help="One tenant.", show_default="all")] = "",
    since: Annotated[str, typer.Option(help="The first day, in UTC: 2024-02-29.")] = "",
    until: Annotated[str, typer.Option(help="The last day.")] = "",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """What tenants have used by day, and what they keep."""
    from cellyard_proto.v1 import tenants_pb2 as pb

    request = pb.GetUsageRequest(tenant=name, from_day=since, to_day=until)
    days, keep = _administer(data, partial(_used, request=request), lambda stub: _usage_told(stub, request))
    if as_json:
        typer.echo(json.dumps({"days": days, "kept": keep}, indent=2))
        return
    rows = [[round(value, 3) if isinstance(value, float) else value for value in day.values()] for day in days]
    table(list(days[0]) if days else (), rows)
    for each in keep:
        typer.echo(f"{visible(each['tenant'])} keeps {each['notebooks']} notebooks, {each['storage_bytes']} bytes")


def _used(connection: Any, blobs: Any, request: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    from cellyard_controller.executions import usage as used
    from cellyard_controller.tenants import kept, records

    tenant = records.require_any(connection, request.tenant) if request.tenant else None
    days = used.by_day(connection, tenant, request.from_day, request.to_day)
    owners = [tenant] if tenant else kept.owners(connection)
    return [asdict(day) for day in days], [asdict(kept.measured(connection, blobs, owner)) for owner in owners]


def _usage_told(stub: Any, request: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    answer = stub.GetUsage(request, timeout=_TIMEOUT)
    return [_fields(day) for day in answer.days], [_fields(each) for each in answer.kept]


def _fields(message: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def _administer(
    data: Path | None,
    offline: Callable[[Any, Any], Any],
    online: Callable[[Any], Any],
    *,
    noted: str = "",
    of: str = "",
) -> Any:
    """Through the running controller where there is one, else straight in its store.

    `offline`: is given a connection and the large parts.
    `noted`: what the audit log calls it, as the controller would; and whom it is about.
    """
    import grpc

    from cellyard_controller.api.server import CannotListen, lock
    from cellyard_controller.app import control_socket
    from cellyard_controller.errors import Refused
    from cellyard_controller.store import Store, StoreFailed, places
    from cellyard_proto.v1 import tenants_pb2_grpc

    config = configuration(None, {"data": data})
    folder = config.data
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = lock(folder / "lock", "the data folder")
    except (CannotListen, OSError):
        held = -1
    try:
        if held < 0:
            with grpc.insecure_channel(f"unix:{control_socket(folder)}") as channel:
                return online(tenants_pb2_grpc.TenantsStub(channel))
        store = Store.open(places.of(config.store, folder))
        try:
            return asyncio.run(_offline(store, offline, folder, noted, of))
        finally:
            store.close()
    except Refused as refused:
        end(USAGE, refused.message)
    except grpc.RpcError as failed:
        refused_by_code = failed.code() is grpc.StatusCode.INVALID_ARGUMENT
        end(USAGE if refused_by_code else NO_CONTROLLER, str(failed.details()))
    except (OSError, StoreFailed) as failed:
        end(NO_CONTROLLER, str(failed))
    finally:
        if held >= 0:
            os.close(held)


async def _offline(store: Any, work: Callable[[Any, Any], Any], folder: Path, noted: str, of: str) -> Any:
    from cellyard_controller.ids import LOCAL
    from cellyard_controller.tenants.audit import Audit

    result = await store.write(lambda connection: work(connection, store.blobs))
    if noted:
        limits = configuration(None, {}).audit
        audit = Audit(folder, max_bytes=limits.max_bytes, files=limits.files)
        about = {"of": of, "token_id": getattr(result, "token_id", "")}
        audit.note(noted, tenant=LOCAL, about=about, outcome="ok", **{"from": "the data folder"})
        await audit.flush()
    return result


def _changes(pairs: list[str]) -> dict[str, str]:
    from cellyard_controller.errors import InvalidRequest
    from cellyard_controller.tenants import quotas

    try:
        changes = quotas.from_pairs(pairs)
        quotas.changed({}, changes)
    except InvalidRequest as bad:
        end(USAGE, bad.message)
    return changes


def _grant(name: str, scope: str, expires: str | None, certificate: str) -> Any:
    from cellyard_controller.tenants.tokens import Grant
    from cellyard_proto import amounts

    try:
        span = None if expires is None else amounts.parse_duration(expires)
    except ValueError as bad:
        end(USAGE, f"--expires: {bad}")
    return Grant(name, scope, span, certificate)


def _message(grant: Any) -> Any:
    from cellyard_proto.v1 import tenants_pb2 as pb

    return pb.TokenGrant(**asdict(grant))


def _stored(record: Any) -> dict[str, Any]:
    from cellyard_controller.tenants.quotas import Quotas

    limits = Quotas(configuration(None, {}).quotas.quota).merged(record.quotas)
    return _row(record.name, record.created_at, record.tokens, asdict(limits), sorted(record.quotas))


def _told(tenant: Any) -> dict[str, Any]:
    limits = {
        field.name.removesuffix("_bytes"): getattr(tenant.quotas, field.name)
        if tenant.quotas.HasField(field.name)
        else None
        for field in tenant.quotas.DESCRIPTOR.fields
    }
    return _row(tenant.name, tenant.created_at, tenant.tokens, limits, list(tenant.quotas_set))


def _row(name: str, created_at: float, tokens: int, limits: dict[str, Any], set_for_it: list[str]) -> dict[str, Any]:
    return {"name": name, "created_at": created_at, "tokens": tokens, "quotas": limits, "quotas_set": set_for_it}


def _in_words(row: dict[str, Any]) -> str:
    from cellyard_controller.tenants.quotas import Quota, words

    return " ".join(f"{key}={value}" for key, value in words(Quota(**row["quotas"])).items()) or "no quotas"
