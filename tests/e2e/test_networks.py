"""The way out of real sandboxes: what gets through the proxy, and that nothing else does. All servers are here."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import charset_normalizer
import docker
import idna
import pip
import pytest
import requests
import urllib3

import cellyard
from tests.controller_process import Process
from tests.servers import Servers

pytestmark = pytest.mark.docker

CA = "/home/sandbox/ca.pem"
ISOLATED = {"container_isolation", "network_isolation"}
_OF_LIBC = ("linux-vdso", "ld-linux", "libc.", "libm.", "libresolv.", "libpthread.", "libdl.", "librt.")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.close()


@pytest.fixture(scope="module")
def image_with_git(built_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The default image with this machine's git, which brings its libraries."""
    folder = tmp_path_factory.mktemp("git")
    core = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip())
    programs = [shutil.which("git") or "git", str(core / "git-remote-https")]
    for path in {line.split()[2] for line in _libraries(programs)}:
        shutil.copy(path, folder)
    for program in programs:
        shutil.copy(program, folder)
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        archive.add(folder, "git")
        recipe = f"FROM {built_image}\nCOPY git /opt/git\n".encode()
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(recipe)
        archive.addfile(entry, io.BytesIO(recipe))
    context.seek(0)
    client = docker.APIClient()
    tag = f"cellyard-test-git:{uuid.uuid4().hex[:12]}"
    said = list(client.build(fileobj=context, custom_context=True, tag=tag, rm=True, network_mode="none", decode=True))
    assert client.images(tag), said
    yield tag
    client.remove_image(tag)
    client.close()


def _libraries(programs: list[str]) -> list[str]:
    said = subprocess.check_output(["ldd", *programs], text=True)
    return [line for line in said.splitlines() if "=> /" in line and not line.strip().startswith(_OF_LIBC)]


@pytest.fixture(scope="module")
def configuration(servers: Servers, image_with_git: str, module_folder: Path) -> Path:
    """`listed` may reach the servers, and a name that leads inside; `free` may be asked for an open network."""
    inside = f"localhost:{servers.http_port}"
    file = module_folder / "cellyard.toml"
    file.write_text(
        f'[network.hosts]\n"mirror.test" = "127.0.0.1"\n'
        f"[templates.free]\nnetwork_open = true\n"
        f'[templates.listed]\nimage = "{image_with_git}"\nnetwork = "allowlist"\n'
        f"allow = {json.dumps([*servers.allow, inside])}\n"
    )
    return file


@pytest.fixture(scope="module")
def controller(configuration: Path, module_folder: Path) -> Iterator[Process]:
    process = Process(module_folder)
    process.start("--config", str(configuration))
    yield process
    process.close()


def session(controller: Process, servers: Servers, **more: Any) -> cellyard.Session:
    """A session whose programs trust the servers' certificate."""
    usual = {"template": "listed", "require": ISOLATED, "env": servers.trust(CA)}
    files = {"ca.pem": servers.ca.read_bytes()}
    return cellyard.Session(endpoint=controller.endpoint, **{**usual, "files": files, **more})


def done(result: cellyard.ExecutionResult) -> Any:
    """What the last expression is. Fails with what the code said, where it failed."""
    assert result.success, (result.stdout, result.stderr, result.error)
    return result.value


def packed(*modules: Any) -> bytes:
    """Pure Python packages as a zip that can be imported from."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
        for module in modules:
            folder = Path(module.__file__).parent
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.suffix not in (".pyc", ".so", ".exe"):
                    made.write(file, Path(folder.name) / file.relative_to(folder))
    return archive.getvalue()


def test_urllib_gets_through_and_nothing_else_leads_out(controller: Process, servers: Servers) -> None:
    with session(controller, servers) as inside:
        get = "import urllib.request\n[urllib.request.urlopen(f'{base}/hello').read() for base in (%r, %r)]"
        assert done(inside.run(get % (servers.http, servers.https))) == [b"hello", b"hello"]
        assert inside.supported_capabilities() >= ISOLATED
        found = done(
            inside.run(
                "import os, socket, errno\n"
                "def reach(address, port):\n"
                "    try:\n"
                "        socket.create_connection((address, port), 2).close()\n"
                "    except OSError as error:\n"
                "        return errno.errorcode.get(error.errno, 'name')\n"
                f"ports = {[servers.http_port, servers.https_port]}\n"
                "{\n"
                "    'interfaces': [name for _, name in socket.if_nameindex()],\n"
                "    'routes': open('/proc/net/route').read().splitlines()[1:],\n"
                "    'itself': [reach('127.0.0.1', port) for port in ports],\n"
                "    'bridge': [reach('172.17.0.1', port) for port in ports],\n"
                "    'nowhere': reach('192.0.2.1', 80),\n"
                "    'names': [reach(name, 80) for name in ('mirror.test', 'example.org')],\n"
                "    'udp': socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('192.0.2.1', 53)),\n"
                "    'sockets': [os.path.exists(f'/run/cellyard/{name}.sock') for name in ('agent', 'proxy')],\n"
                "}"
            )
        )
        assert "eth0" not in found["interfaces"]
        assert found["routes"] == []
        assert found["itself"] == ["ECONNREFUSED"] * 2
        assert found["bridge"] == ["ENETUNREACH"] * 2
        assert found["nowhere"] == "ENETUNREACH"
        assert found["names"] == ["name"] * 2
        assert found["udp"] != 0
        assert found["sockets"] == [True, True]


def test_requests_and_pip_work_unchanged(controller: Process, servers: Servers) -> None:
    files = {
        "ca.pem": servers.ca.read_bytes(),
        "requests.zip": packed(requests, urllib3, idna, certifi, charset_normalizer),
        "pip.zip": packed(pip),
    }
    with session(controller, servers, files=files) as inside:
        get = "import sys; sys.path.insert(0, 'requests.zip')\nimport requests\nrequests.get(%r + '/hello').text"
        assert done(inside.run(get % servers.https)) == "hello"
        install = (
            "import subprocess, zipfile\n"
            "zipfile.ZipFile('pip.zip').extractall('pip')\n"
            "command = [sys.executable, '-m', 'pip', 'install', '-q', '--target', 'here', '--index-url', %r, 'tiny']\n"
            "subprocess.run(command, check=True, env={**os.environ, 'PYTHONPATH': 'pip'})\n"
            "sys.path.insert(0, 'here')\n"
            "import tiny\n"
            "tiny.ANSWER"
        )
        assert done(inside.run("import os\n" + install % f"{servers.https}/simple")) == 42


def test_git_clones_over_https(controller: Process, servers: Servers) -> None:
    with session(controller, servers) as inside:
        clone = (
            "import subprocess, os\n"
            "git = {'LD_LIBRARY_PATH': '/opt/git', 'GIT_EXEC_PATH': '/opt/git', 'GIT_TEMPLATE_DIR': ''}\n"
            "command = ['/opt/git/git', 'clone', '-q', %r, 'clone']\n"
            "done = subprocess.run(command, env={**os.environ, **git}, capture_output=True, text=True)\n"
            "done.stderr, open('clone/README').read()"
        )
        assert done(inside.run(clone % f"{servers.https}/tiny.git")) == ("", "tiny\n")


def test_a_denial_is_an_event_with_host_port_and_reason(controller: Process, servers: Servers) -> None:
    code = (
        "import urllib.request, urllib.error\n"
        "def refused(url):\n"
        "    try:\n"
        "        urllib.request.urlopen(url)\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code, error.read().decode()\n"
        "    except urllib.error.URLError as error:\n"
        "        return str(error.reason)\n"
        f"[refused(url) for url in ('http://other.test/', 'https://other.test/', 'http://localhost:{servers.http_port}/in')]"
    )
    with session(controller, servers, env={"NO_PROXY": "", "no_proxy": ""}) as inside:
        events = list(inside.stream_execute(code=code))
        told = [event for event in events if isinstance(event, cellyard.Warned)]
        details = [(event.details["host"], event.details["port"], event.details["reason"]) for event in told]
        assert details == [
            ("other.test", "80", "not_listed"),
            ("other.test", "443", "not_listed"),
            ("localhost", str(servers.http_port), "private_address"),
        ]
        assert {event.kind for event in told} == {"network_denied"}
        value = done(events[-1].result)
        assert value[0][0] == value[2][0] == 403
        assert "not on this sandbox's list" in value[0][1]
        assert "403" in value[1]
    assert ("GET", "/in") not in servers.asked


def test_a_sandbox_without_a_list_has_no_way_to_the_proxy(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as inside:
        code = "import os\nos.path.exists('/run/cellyard/proxy.sock'), [v for v in os.environ if 'proxy' in v.lower()]"
        assert done(inside.run(code)) == (False, [])


def test_the_way_out_outlives_a_restart_of_the_kernel(controller: Process, servers: Servers) -> None:
    with session(controller, servers) as inside:
        code = f"import urllib.request\nurllib.request.urlopen('{servers.https}/hello').read()"
        assert done(inside.run(code)) == b"hello"
        inside.restart_kernel()
        assert done(inside.run(code)) == b"hello"


def test_an_open_network_is_had_where_it_is_asked_for_and_isolates_nothing(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, template="free", network="open") as inside:
        code = "import socket\nsorted(name for _, name in socket.if_nameindex() if name.startswith('eth'))"
        assert done(inside.run(code)) == ["eth0"]
        assert "container_isolation" in inside.supported_capabilities()
        assert "network_isolation" not in inside.supported_capabilities()
    with (
        cellyard.Session(endpoint=controller.endpoint, template="free", network="open", require=ISOLATED) as inside,
        pytest.raises(cellyard.CapabilityUnavailable, match="the network policy is open"),
    ):
        inside.run("1")


def test_after_a_crash_of_the_controller_a_sandbox_still_has_its_way_out(
    configuration: Path, servers: Servers, folder: Path
) -> None:
    process = Process(folder)
    process.start("--config", str(configuration))
    try:
        inside = session(process, servers)
        inside.connect()
        code = f"import os, urllib.request\nurllib.request.urlopen('{servers.https}/hello').read(), os.getpid()"
        before = done(inside.run(code))
        process.kill()
        process.start("--config", str(configuration))
        assert done(inside.run(code)) == before
        inside.shutdown_kernel()
        inside.close()
    finally:
        process.close()
    assert not os.listdir(process.data / "link")
