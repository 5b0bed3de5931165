"""Health and metrics over real HTTP: who may read what, what stands there, and what is refused."""

from __future__ import annotations

import asyncio
import datetime
import re
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client.parser import text_string_to_metric_families

import cellyard
from cellyard_controller.api.server import CannotListen
from cellyard_controller.web import labelled, server, standing
from cellyard_proto.v1 import notebooks_pb2 as nb
from cellyard_proto.v1 import tenants_pb2 as te

from .conftest import Stubs, Yard

LOOPBACK = {"http": {"listen": "127.0.0.1:0"}}
WITHIN = 60.0
OK, UNAUTHORIZED, NOT_FOUND, NOT_ALLOWED, UNAVAILABLE = 200, 401, 404, 405, 503


class Scraper:
    """A client of the HTTP side."""

    def __init__(self, yard: Yard, session: aiohttp.ClientSession) -> None:
        self.yard, self.session = yard, session

    @property
    def url(self) -> str:
        return self.yard.controller.http_address

    @property
    def token(self) -> str:
        return (self.yard.folder / "data" / "http.token").read_text().strip()

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        async with self.session.request(method, self.url + path, headers=headers) as answer:
            return answer.status, await answer.text(), dict(answer.headers)

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        status, text, _ = await self.get("/metrics", Authorization=f"Bearer {self.token}")
        assert status == OK
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float | None:
        return (await self.metrics()).get((name, frozenset(labels.items())))


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again, as a scraper does."""
    async with asyncio.timeout(WITHIN):
        while not await happened():  # noqa: ASYNC110 - over HTTP there is no event to wait for
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
def asked_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runtimes can do is asked every 50 ms."""
    monkeypatch.setattr(standing, "EVERY", 0.05)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def served(yard: Yard) -> Stubs:
    """A controller with HTTP."""
    return await yard.start(**LOOPBACK)


@pytest.fixture
def scraper(yard: Yard, served: Stubs, session: aiohttp.ClientSession) -> Scraper:
    return Scraper(yard, session)


async def test_health_needs_no_token_and_tells_nothing_else(scraper: Scraper) -> None:
    assert (await scraper.get("/healthz"))[:2] == (OK, "ok\n")
    await until(lambda: is_ready(scraper))
    assert (await scraper.get("/readyz"))[:2] == (OK, "ready\n")


async def test_notebooks_are_counted_by_the_labels_that_the_operator_names(
    yard: Yard, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "MAX_VALUES", 2)
    stubs = await yard.start(http={"listen": "127.0.0.1:0", "labels": ("team", "app/x.y-z")})
    scraper = Scraper(yard, session)
    for notebook, labels in {
        "a": {"team": "red", "secret": "x"},
        "b": {"team": "red", "app/x.y-z": '"'},
        "c": {"team": "blue"},
        "d": {"team": "green"},
        "e": {"team": "white"},
    }.items():
        await stubs.notebooks.SetLabels(nb.SetLabelsRequest(notebook_id=notebook, labels=labels))
    await stubs.run("b", "value 1")

    async def counted() -> bool:
        return await scraper.value("cellyard_labelled_sandboxes", label="team", value="red") == 1

    await until(counted)
    found = {(name, *sorted(labels)): value for (name, labels), value in (await scraper.metrics()).items()}
    told = {key[1:]: value for key, value in found.items() if key[0] == "cellyard_labelled_notebooks"}
    assert told == {
        (("label", "team"), ("value", "red")): 2,
        (("label", "team"), ("value", "blue")): 1,
        (("label", "team"), ("value", "(others)")): 2,
        (("label", "app/x.y-z"), ("value", '"')): 1,
    }


async def is_ready(scraper: Scraper, ready: bool = True) -> bool:
    return ((await scraper.get("/readyz"))[0] == OK) is ready


async def test_a_runtime_that_cannot_start_sandboxes_is_not_ready_and_says_no_more(
    scraper: Scraper, yard: Yard
) -> None:
    await until(lambda: is_ready(scraper))
    yard.runtime.not_ready_reason = "the engine has no image secret.example/name"
    await until(lambda: is_ready(scraper, ready=False))
    assert (await scraper.get("/readyz"))[:2] == (UNAVAILABLE, "the runtime docker is not ready\n")
    assert (await scraper.get("/healthz"))[0] == OK
    assert await scraper.value("cellyard_runtime_ready", runtime="docker") == 0
    yard.runtime.not_ready_reason = ""
    await until(lambda: is_ready(scraper))


async def test_health_is_told_at_once_while_the_engine_hangs(scraper: Scraper, yard: Yard) -> None:
    await until(lambda: is_ready(scraper))
    yard.runtime.hang_engine()
    try:
        async with asyncio.timeout(WITHIN):
            assert (await scraper.get("/healthz"))[0] == OK
            await scraper.metrics()
    finally:
        yard.runtime.resume_engine()


@pytest.mark.parametrize(
    "header",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}, {"Authorization": "nonsense"}],
    ids=["none", "wrong", "empty", "nonsense"],
)
async def test_without_the_token_no_metrics_and_always_the_same_answer(
    scraper: Scraper, header: dict[str, str]
) -> None:
    status, text, headers = await scraper.get("/metrics", **header)
    assert (status, text) == (UNAUTHORIZED, "authentication failed\n")
    assert headers["WWW-Authenticate"] == "Bearer"


async def test_the_token_of_another_scheme_or_with_more_behind_it_is_refused(scraper: Scraper) -> None:
    for wrong in (f"Basic {scraper.token}", f"Bearer {scraper.token}x", f"Bearer {scraper.token[:-1]}"):
        assert (await scraper.get("/metrics", Authorization=wrong))[0] == UNAUTHORIZED
    assert (await scraper.get("/metrics", Authorization=f"bearer  {scraper.token} "))[0] == OK


async def test_a_tenants_token_is_not_the_operators(scraper: Scraper, served: Stubs) -> None:
    from cellyard_proto.v1 import tenants_pb2 as te

    created = await served.tenants.Create(te.CreateTenant(name="alice"))
    assert (await scraper.get("/metrics", Authorization=f"Bearer {created.token}"))[0] == UNAUTHORIZED


async def test_the_token_is_private_stays_over_restarts_and_can_be_replaced(scraper: Scraper, yard: Yard) -> None:
    path = yard.folder / "data" / "http.token"
    first = scraper.token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first) >= 43, "256 bits"
    await yard.stop()
    await yard.start(**LOOPBACK)
    assert scraper.token == first
    path.write_text("another-token-of-the-operator\n")
    assert (await scraper.get("/metrics", Authorization=f"Bearer {first}"))[0] == UNAUTHORIZED
    assert (await scraper.get("/metrics", Authorization="Bearer another-token-of-the-operator"))[0] == OK
    for nobody in ("", "short"):
        path.write_text(nobody)
        assert (await scraper.get("/metrics", Authorization=f"Bearer {nobody}"))[0] == UNAUTHORIZED
    path.unlink()
    assert (await scraper.get("/metrics", Authorization="Bearer "))[0] == UNAUTHORIZED


async def test_what_happened_is_counted(scraper: Scraper, served: Stubs, yard: Yard) -> None:
    await served.run("one", "value 1")
    await served.run("one", "error ValueError told")
    await until(lambda: is_ready(scraper))
    found = await scraper.metrics()

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))

    assert value("cellyard_executions_total", end="succeeded") == 1
    assert value("cellyard_executions_total", end="failed") == 1
    assert value("cellyard_execution_seconds_count") == 2
    assert value("cellyard_execution_wait_seconds_count") == 2
    assert value("cellyard_sandbox_starts_total", template="default") == 1
    assert value("cellyard_sandbox_start_seconds_count") == 1
    assert value("cellyard_sandboxes", template="default", state="claimed") == 1
    assert value("cellyard_sandboxes_linked") == 1
    assert value("cellyard_rooms_loaded") == 1
    assert (value("cellyard_store_write_seconds_count") or 0) > 2
    granted = {"runtime": "docker", "template": "default", "network": "none", "capability": "network_isolation"}
    assert value("cellyard_capability_granted", **granted) == 1
    yard.runtime.granted = ("timeout",)

    async def taken_away() -> bool:
        return await scraper.value("cellyard_capability_granted", **granted) == 0

    await until(taken_away)
    yard.runtime.remove("fake-1")

    async def ended() -> bool:
        labels = {"template": "default", "reason": "runtime_lost"}
        return await scraper.value("cellyard_sandbox_ends_total", **labels) == 1

    await until(ended)


async def test_what_waits_is_told_while_it_waits(scraper: Scraper, served: Stubs, yard: Yard) -> None:
    first = asyncio.ensure_future(served.run("nb", "gate g"))
    await yard.runtime.reached("g")
    second = asyncio.ensure_future(served.run("nb", "value 1"))

    async def one_waits() -> bool:
        return await scraper.value("cellyard_executions_queued") == 1

    await until(one_waits)
    yard.runtime.open("g")
    await asyncio.gather(first, second)
    assert await scraper.value("cellyard_executions_queued") == 0


async def test_openmetrics_is_spoken_where_it_is_asked_for(scraper: Scraper) -> None:
    bearer = f"Bearer {scraper.token}"
    asked = {"Authorization": bearer, "Accept": "application/openmetrics-text; version=1.0.0"}
    status, text, headers = await scraper.get("/metrics", **asked)
    assert (status, headers["Content-Type"].split(";")[0]) == (OK, "application/openmetrics-text")
    assert text.endswith("# EOF\n")
    for strange in ("text/plain; version=x.y", "application/openmetrics-text; version=", ";;;,,", "*/*"):
        status, _, headers = await scraper.get("/metrics", Authorization=bearer, Accept=strange)
        assert status == OK
        assert headers["Content-Type"].split(";")[0] in ("text/plain", "application/openmetrics-text")


async def test_answers_carry_nothing_that_a_browser_could_use(scraper: Scraper) -> None:
    for path in ("/healthz", "/metrics", "/nothing"):
        _, _, headers = await scraper.get(path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "cellyard"


async def test_other_methods_and_paths_are_refused(scraper: Scraper) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        status, _, _ = await scraper.get("/metrics", method=method, Authorization=f"Bearer {scraper.token}")
        assert status == NOT_ALLOWED, method
    for path in ("/", "/metrics/", "/../http.token", "/%2e%2e/http.token", "/metrics%00"):
        assert (await scraper.get(path, Authorization=f"Bearer {scraper.token}"))[0] == NOT_FOUND, path


RAW = {
    "garbage": b"\x00\xff" * 100 + b"\r\n\r\n",
    "no-http": b"GET / FTP/1.0\r\n\r\n",
    "long-line": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "large-header": b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: " + b"a" * 20_000 + b"\r\n\r\n",
    "many-headers": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
    "bad-length": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two-lengths": b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW.keys())
async def test_what_is_no_proper_request_is_refused_and_the_next_one_answered(scraper: Scraper, raw: bytes) -> None:
    host, _, port = scraper.url.removeprefix("http://").rpartition(":")
    async with asyncio.timeout(WITHIN):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        said = await reader.read()  # to the end: such a connection is closed
        writer.close()
    assert said.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), said[:100]
    assert b"Traceback" not in said
    assert (await scraper.get("/healthz"))[0] == OK


async def test_connections_that_say_nothing_keep_nobody_out_and_are_bounded(scraper: Scraper) -> None:
    host, _, port = scraper.url.removeprefix("http://").rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(3 * server.MAX_CONNECTIONS)]
    try:
        assert (await scraper.get("/healthz"))[0] == OK
        async with asyncio.timeout(WITHIN):
            for reader, _ in opened[: 2 * server.MAX_CONNECTIONS]:
                assert await reader.read() == b""
    finally:
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize(
    ("http", "more", "says"),
    [
        ({"listen": "nonsense"}, {}, "no address"),
        ({"listen": "127.0.0.1:70000"}, {}, "no address"),
        ({"listen": "unix:/run/x.sock"}, {}, "takes HOST:PORT"),
        ({"listen": "0.0.0.0:0"}, {}, "--insecure-listen"),
        ({"listen": "[::]:0"}, {}, "--insecure-listen"),
        ({"listen": "a.host.example:0"}, {}, "--insecure-listen"),
        ({"listen": "127.0.0.1:0"}, {"tls_cert": "/nowhere"}, "belong together"),
        ({"listen": "127.0.0.1:0", "token_file": "/nowhere/token"}, {}, "No such file"),
    ],
    ids=["nonsense", "port", "unix", "everywhere", "everywhere-6", "a-name", "half-tls", "no-token"],
)
async def test_what_cannot_be_served_is_refused_at_the_start(
    yard: Yard, http: dict[str, str], more: dict[str, str], says: str
) -> None:
    with pytest.raises(CannotListen, match=says) as refused:
        await yard.start(http=http, **more)
    assert refused.value.usage


async def test_a_token_that_is_too_short_is_refused_at_the_start(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(CannotListen, match="at least 16"):
        await yard.start(http={"listen": "127.0.0.1:0", "token_file": str(tmp_path / "token")})


async def test_a_port_that_is_taken_is_refused_at_the_start(
    scraper: Scraper, folder: Path, session: aiohttp.ClientSession
) -> None:
    other = Yard(folder / "other")
    with pytest.raises(CannotListen, match="cannot listen") as refused:
        await other.start(http={"listen": scraper.url.removeprefix("http://")})
    assert not refused.value.usage
    assert (await scraper.get("/healthz"))[0] == OK


async def test_without_the_setting_nothing_is_served(yard: Yard) -> None:
    await yard.start()
    assert not (yard.folder / "data" / "http.token").exists()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert_file, key_file


async def test_with_a_certificate_it_is_https_and_may_be_reached_from_elsewhere(
    yard: Yard, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    await yard.start(http={"listen": "0.0.0.0:0"}, tls_cert=cert, tls_key=key)
    scheme, _, port = yard.controller.http_address.rpartition(":")
    assert scheme.startswith("https://")
    trust = ssl.create_default_context(cafile=str(cert))
    async with session.get(f"https://localhost:{port}/healthz", ssl=trust) as answer:
        assert (answer.status, await answer.text()) == (OK, "ok\n")


async def test_a_key_that_does_not_match_is_refused_at_the_start(yard: Yard, tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, key = certificate(tmp_path / "other")
    with pytest.raises(CannotListen, match="no certificate and its key"):
        await yard.start(http={"listen": "127.0.0.1:0"}, tls_cert=cert, tls_key=key)


async def settled(scraper: Scraper) -> bool:
    """Whether the run is over for the controller too, and the session's own call is left."""
    ended = await scraper.value("cellyard_calls_total", method="Executions.Execute", outcome="ok")
    return (ended, await scraper.value("cellyard_calls_open")) == (1, 1)


async def test_a_scrape_names_no_tenant_unless_the_operator_wants_it(
    yard: Yard, session: aiohttp.ClientSession
) -> None:
    http = LOOPBACK["http"]
    for wanted in (False, True):
        stubs = await yard.start(http={**http, "tenants": wanted})
        if not wanted:
            token = (await stubs.tenants.Create(te.CreateTenant(name="acme-of-springfield"))).token
        endpoint = f"unix:{yard.folder}/c.sock"
        async with cellyard.AsyncSession(notebook_id="nb", endpoint=endpoint, token=token) as client:
            assert (await client.run("value 1")).success
            scraper = Scraper(yard, session)
            status, text, _ = await scraper.get("/metrics", Authorization=f"Bearer {scraper.token}")
            assert (status, "acme-of-springfield" in text, "nb" in re.findall(r'"(\w+)"', text)) == (OK, wanted, False)
            assert await scraper.value("cellyard_claim_seconds_count", found="cold") == 1
            await until(partial(settled, scraper))
            assert await scraper.value("cellyard_links_total", kind="first") == 1
            assert await scraper.value("cellyard_sessions") == 1
            tenant = {"tenant": "acme-of-springfield"}
            assert await scraper.value("cellyard_tenant_sandboxes", **tenant) == (1 if wanted else None)
        await yard.stop()
