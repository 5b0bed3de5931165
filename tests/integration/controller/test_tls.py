"""TLS and mutual TLS: what is served with, who is let in, and the sentences for whatever does not fit."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.authority import Authority, Pair

import cellyard
from cellyard_controller.api.server import CannotListen
from cellyard_controller.app import Controller
from cellyard_controller.config import Config
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard

HOUR = datetime.timedelta(hours=1)


@pytest.fixture
def ours(folder: Path) -> Authority:
    return Authority(folder, "ours")


@pytest.fixture
def theirs(folder: Path) -> Authority:
    return Authority(folder, "theirs")


async def serve(yard: Yard, pair: Pair, client_ca: Path | None = None) -> tuple[Stubs, str]:
    """The operator's services, and the address of a listener with TLS."""
    stubs = await yard.start(
        listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"),
        tls_cert=pair.cert,
        tls_key=pair.key,
        tls_client_ca=client_ca,
    )
    return stubs, yard.controller.addresses[1]


async def token(operator: Stubs, **grant: str) -> str:
    created = await operator.tenants.Create(te.CreateTenant(name="alice", grant=te.TokenGrant(**grant)))
    return str(created.token)


async def tenant(endpoint: str, given: str, tls: cellyard.TLS | bool) -> str:
    """Whom the controller takes the caller for."""
    async with cellyard.AsyncClient(endpoint, given, tls=tls) as client:
        return (await client.server()).tenant


async def test_a_session_over_tls(yard: Yard, ours: Authority) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "127.0.0.1"))
    given = await token(operator)
    async with cellyard.AsyncSession("nb", endpoint=endpoint, token=given, tls=cellyard.TLS(ours.ca)) as session:
        assert (await session.run("value 42")).value == 42


async def test_what_fails_says_why(yard: Yard, ours: Authority, theirs: Authority) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "127.0.0.1"))
    given = await token(operator)
    for tls, says in (
        (cellyard.TLS(theirs.ca), r"certificate is not trusted \(.*\); TLS\(ca=...\) names the authority"),
        (True, "certificate is not trusted"),
        (False, "does it want TLS"),
    ):
        with pytest.raises(cellyard.ControllerUnavailable, match=says):
            await tenant(endpoint, given, tls)


async def test_a_certificate_for_another_name(yard: Yard, ours: Authority) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "elsewhere.example"))
    with pytest.raises(cellyard.ControllerUnavailable, match="certificate is for another name"):
        await tenant(endpoint, await token(operator), cellyard.TLS(ours.ca))


async def test_tls_towards_one_who_speaks_without(yard: Yard, ours: Authority) -> None:
    await yard.start(listen=(f"unix:{yard.folder}/c.sock", "127.0.0.1:0"))
    with pytest.raises(cellyard.ControllerUnavailable, match="it speaks without TLS"):
        await tenant(yard.controller.addresses[1], "t", cellyard.TLS(ours.ca))


async def test_with_a_client_ca_every_client_has_a_certificate(yard: Yard, ours: Authority, theirs: Authority) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "127.0.0.1"), ours.ca)
    given = await token(operator)
    mine, foreign, late = ours.sign("alice"), theirs.sign("alice"), ours.sign("late", until=-HOUR)
    assert await tenant(endpoint, given, cellyard.TLS(ours.ca, mine.cert, mine.key)) == "alice"
    with pytest.raises(cellyard.Unauthenticated):  # the certificate stands beside the token, not in its place
        await tenant(endpoint, "cy_wrong", cellyard.TLS(ours.ca, mine.cert, mine.key))
    for tls in (
        cellyard.TLS(ours.ca),
        cellyard.TLS(ours.ca, foreign.cert, foreign.key),
        cellyard.TLS(ours.ca, late.cert, late.key),
    ):
        with pytest.raises(cellyard.ControllerUnavailable, match="a certificate of the client's"):
            await tenant(endpoint, given, tls)


async def test_a_token_may_be_bound_to_a_certificate(yard: Yard, ours: Authority) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "127.0.0.1"), ours.ca)
    given = await token(operator, certificate="ci.example")
    by_name, by_alternative, other = ours.sign("ci.example"), ours.sign("x", "ci.example"), ours.sign("bob")
    for pair in (by_name, by_alternative):
        assert await tenant(endpoint, given, cellyard.TLS(ours.ca, pair.cert, pair.key)) == "alice"
    with pytest.raises(cellyard.Unauthenticated, match="authentication failed"):
        await tenant(endpoint, given, cellyard.TLS(ours.ca, other.cert, other.key))
    with pytest.raises(cellyard.Unauthenticated):  # and over no other connection either
        await tenant(f"unix:{yard.folder}/c.sock", given, False)


async def test_tls_from_the_environment(yard: Yard, ours: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, endpoint = await serve(yard, ours.sign("server", "127.0.0.1"), ours.ca)
    mine = ours.sign("alice")
    monkeypatch.setenv("CELLYARD_CA", str(ours.ca))
    monkeypatch.setenv("CELLYARD_CLIENT_CERT", str(mine.cert))
    monkeypatch.setenv("CELLYARD_CLIENT_KEY", str(mine.key))
    assert await tenant(endpoint, await token(operator), False) == "alice"


async def test_files_of_a_client_that_do_not_fit(ours: Authority, folder: Path) -> None:
    mine, other = ours.sign("alice"), ours.sign("bob")
    for tls, says in (
        (cellyard.TLS(ours.ca, mine.cert, other.key), r"are no certificate and its key .*MISMATCH"),
        (cellyard.TLS(ours.ca, mine.key, mine.key), "are no certificate and its key"),
        (cellyard.TLS(mine.key), "has no certificate in PEM"),
        (cellyard.TLS(ours.ca, mine.cert), "both or none"),
        (cellyard.TLS(folder / "none"), "cannot be read"),
    ):
        with pytest.raises(cellyard.InvalidRequest, match=says):
            await tenant("127.0.0.1:1", "t", tls)


def mismatch(ours: Authority, _: Authority) -> dict[str, Path]:
    return {"tls_cert": ours.sign("a").cert, "tls_key": ours.sign("b").key}


def expired(ours: Authority, _: Authority) -> dict[str, Path]:
    pair = ours.sign("a", until=-HOUR)
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def not_yet(ours: Authority, _: Authority) -> dict[str, Path]:
    pair = ours.sign("a", since=HOUR)
    return {"tls_cert": pair.cert, "tls_key": pair.key}


def missing(ours: Authority, _: Authority) -> dict[str, Path]:
    return {"tls_cert": ours.ca.with_name("none"), "tls_key": ours.sign("a").key}


def unreadable_key(ours: Authority, _: Authority) -> dict[str, Path]:
    return {"tls_cert": ours.sign("a").cert, "tls_key": ours.ca.with_name("none")}


def no_certificate(ours: Authority, _: Authority) -> dict[str, Path]:
    pair = ours.sign("a")
    return {"tls_cert": pair.key, "tls_key": pair.key}


def no_key(ours: Authority, _: Authority) -> dict[str, Path]:
    pair = ours.sign("a")
    return {"tls_cert": pair.cert, "tls_key": pair.cert}


def key_alone(ours: Authority, _: Authority) -> dict[str, Path]:
    return {"tls_key": ours.sign("a").key}


def client_ca_alone(ours: Authority, _: Authority) -> dict[str, Path]:
    return {"tls_client_ca": ours.ca}


def no_authority(ours: Authority, _: Authority) -> dict[str, Path]:
    pair = ours.sign("a")
    return {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": pair.cert}


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (mismatch, "tls_key: .* is not the key of the certificate in .*tls_cert.* made together"),
        (expired, "tls_cert: the certificate in .* expired at .*: renew it"),
        (not_yet, "tls_cert: .* valid from .* on: check the clock"),
        (missing, "tls_cert: .*none cannot be read: No such file"),
        (unreadable_key, "tls_key: .*none cannot be read: No such file"),
        (no_certificate, "tls_cert: .* has no certificate in PEM"),
        (no_key, "tls_key: .* has no private key in PEM"),
        (key_alone, "--tls-cert and --tls-key belong together"),
        (client_ca_alone, "--tls-client-ca needs both"),
        (no_authority, "tls_client_ca: .* may sign no others"),
    ],
)
async def test_what_cannot_serve_is_refused_at_start(
    folder: Path,
    ours: Authority,
    theirs: Authority,
    files: Callable[[Authority, Authority], dict[str, Path]],
    says: str,
) -> None:
    config = Config(data=folder / "data", listen=("127.0.0.1:0",), **files(ours, theirs))
    with pytest.raises(CannotListen, match=says) as refused:
        await Controller(config, lambda _config, _id: {}).start()
    assert refused.value.usage
