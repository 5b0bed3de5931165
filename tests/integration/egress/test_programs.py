"""Programs as they are, told of the proxy by nothing but the usual variables. No DNS knows the servers' name."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.integration.egress.conftest import Yard
from tests.servers import Servers

from cellyard_sandbox.forward import Forwarder


async def run(way_out: Forwarder, servers: Servers, *command: str) -> str:
    """What a program prints that has these variables and the way out's. Fails where it fails."""
    env = {**os.environ, **servers.trust(str(servers.ca)), **way_out.environment}
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_urllib_over_http_and_https(way_out: Forwarder, servers: Servers) -> None:
    code = "import sys, urllib.request\nfor url in sys.argv[1:]: print(urllib.request.urlopen(url).read().decode())"
    urls = [f"{base}/hello" for base in (servers.http, servers.https)]
    assert await run(way_out, servers, sys.executable, "-c", code, *urls) == "hello\nhello\n"


async def test_requests_with_a_session_and_a_streamed_upload(way_out: Forwarder, servers: Servers) -> None:
    code = (
        "import sys, hashlib, requests\n"
        "body = bytes(range(256)) * 10_000\n"
        "digest = hashlib.sha256(body).hexdigest()\n"
        "with requests.Session() as session:\n"
        "    for base in sys.argv[1:]:\n"
        "        assert session.get(base + '/hello').text == 'hello'\n"
        "        assert session.post(base + '/upload', data=body).text == f'{len(body)} {digest} -'\n"
        "        chunks = (body[at:at + 1000] for at in range(0, len(body), 1000))\n"
        "        assert session.post(base + '/upload', data=chunks).text == f'{len(body)} {digest} chunked'\n"
        "        assert session.get(base + '/missing').status_code == 404\n"
        "        assert session.head(base + '/hello').headers['Content-Length'] == '5'\n"
    )
    await run(way_out, servers, sys.executable, "-c", code, servers.http, servers.https)


async def test_pip_installs_from_an_index(way_out: Forwarder, servers: Servers, tmp_path: Path) -> None:
    for base in (servers.http, servers.https):
        target = tmp_path / base.partition(":")[0]
        command = [
            sys.executable,
            "-m",
            "pip",
            "--isolated",
            "--disable-pip-version-check",
            "install",
            "--no-cache-dir",
        ]
        # --isolated leaves the variables out that begin with PIP_, so that a machine's own index plays no part.
        index = ["--index-url", f"{base}/simple", "--cert", str(servers.ca), "--trusted-host", "mirror.test"]
        await run(way_out, servers, *command, *index, "--target", str(target), "tiny")
        assert (target / "tiny.py").read_text() == "ANSWER = 42\n"


async def test_git_clones_over_https(way_out: Forwarder, servers: Servers, tmp_path: Path) -> None:
    await run(way_out, servers, "git", "clone", "-q", f"{servers.https}/tiny.git", str(tmp_path / "clone"))
    assert (tmp_path / "clone" / "README").read_text() == "tiny\n"


async def test_pip_and_git_say_what_was_refused(yard: Yard, servers: Servers, tmp_path: Path) -> None:
    nowhere = await yard.sandbox("sb-2", [])
    env = {**os.environ, **servers.trust(str(servers.ca)), **nowhere.environment}
    command = ["git", "clone", "-q", f"{servers.https}/tiny.git", str(tmp_path / "clone")]
    done = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "403" in done.stderr
    assert (await yard.denials.get())[1].reason == "not_listed"


async def test_a_refused_upload_is_told_the_reason_and_not_a_broken_connection(yard: Yard, servers: Servers) -> None:
    nowhere = await yard.sandbox("sb-3", [])
    code = (
        "import sys, requests\n"
        "for _ in range(20):\n"
        "    answer = requests.post(sys.argv[1], data=b'x' * 300_000)\n"
        "    assert answer.status_code == 403 and 'list' in answer.text, answer\n"
    )
    await run(nowhere, servers, sys.executable, "-c", code, f"{servers.http}/upload")
