"""How the fetcher reaches the index: by the operator's proxy and authorities alone, whatever the controller's own are.

The index has a name that leads nowhere but through the proxy.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.authority import Authority, Pair
from tests.package_index import PackageIndex
from tests.web_proxy import CREDENTIALS, WebProxy

from cellyard_controller.config import EnvironmentsConfig
from cellyard_controller.environments.making import Environments
from cellyard_controller.environments.reading import Bounds, read_list
from cellyard_controller.environments.workshop import Workshop
from cellyard_controller.errors import EnvironmentFailed
from cellyard_controller.ids import TenantName
from cellyard_controller.runtimes import Template
from cellyard_controller.runtimes.fake import FakeRuntime

NAME = "index.invalid"
BACKEND = """
import os, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(os.path.join(folder, "built-1.0-py3-none-any.whl"), "w") as archive:
        archive.writestr("built.py", "")
        archive.writestr("built-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: built\\nVersion: 1.0\\n")
        wheel = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr("built-1.0.dist-info/WHEEL", wheel)
        archive.writestr("built-1.0.dist-info/RECORD", "")
    return "built-1.0-py3-none-any.whl"
"""
PYPROJECT = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
MISLEADING = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "*",
    "SSL_CERT_FILE": "/dev/null",
    "UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple/",
    "UV_INDEX_URL": "http://127.0.0.1:9/simple/",
    "UV_CONFIG_FILE": "/dev/null",
    "UV_OFFLINE": "1",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple/",
    "PYTHONPATH": "/nowhere",
    "CELLYARD_SECRET": "hush-environment",
}
Make = Callable[..., Any]


@pytest.fixture
def authority(folder: Path) -> Authority:
    folder.chmod(0o711)
    authority = Authority(folder)
    authority.ca.chmod(0o644)
    return authority


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.sign("server", NAME)


def filled(index: PackageIndex) -> PackageIndex:
    index.add("tiny", "1.0", requires=["needed"])
    index.add("needed", "1.0")
    index.add_sources("built", "1.0", {"pyproject.toml": PYPROJECT, "backend.py": BACKEND})
    return index


@pytest.fixture
def index(pair: Pair) -> Iterator[PackageIndex]:
    index = filled(PackageIndex(pair))
    yield index
    index.close()


@pytest.fixture
def plain_index() -> Iterator[PackageIndex]:
    index = filled(PackageIndex())
    yield index
    index.close()


@pytest.fixture
def proxy(index: PackageIndex) -> Iterator[WebProxy]:
    proxy = WebProxy({NAME: index.port})
    yield proxy
    proxy.close()


@pytest.fixture
def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    for name, value in MISLEADING.items():
        monkeypatch.setenv(name, value)
    scratch = folder / "scratch"
    scratch.mkdir(mode=0o777)
    scratch.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    async def make(*requirements: str, **settings: Any) -> Path:
        """The folder that a sandbox would mount."""
        environments = Environments(
            EnvironmentsConfig(**settings), folder / "environments", Workshop(folder / "build", "controller")
        )
        definition = read_list(requirements, "", Bounds(100_000, 100))
        held = environments.held(
            TenantName("mine"), definition, FakeRuntime(), Template("default", ""), lambda stage, message: None
        )
        async with held as key:
            site = environments.site(key)
            assert site is not None
            return site

    return make


async def test_all_of_it_goes_through_the_proxy_to_an_index_that_the_operators_authority_vouches_for(
    make: Make, index: PackageIndex, proxy: WebProxy, authority: Authority
) -> None:
    site = await make("tiny", "built", index=f"https://{NAME}/simple/", proxy=proxy.url, certificates=authority.ca)
    assert {each.name for each in site.glob("*.py")} == {"tiny.py", "needed.py", "built.py"}
    assert index.fetched("tiny-1.0-py3-none-any.whl")
    assert index.fetched("built-1.0.tar.gz")
    assert {method for method, _ in proxy.asked} == {"CONNECT"}
    assert {target for _, target in proxy.asked} == {f"{NAME}:443"}


async def test_an_index_without_tls_is_asked_through_the_proxy_too(
    make: Make, plain_index: PackageIndex, proxy: WebProxy
) -> None:
    proxy.ports[NAME] = plain_index.port
    site = await make("tiny", "built", index=f"http://{NAME}/simple/", proxy=proxy.url)
    assert {each.name for each in site.glob("*.py")} == {"tiny.py", "needed.py", "built.py"}
    assert {method for method, _ in proxy.asked} <= {"GET", "HEAD"}
    passed_on = [target.removeprefix(f"http://{NAME}") for _, target in proxy.asked]
    assert sorted(passed_on) == sorted(plain_index.asked)


async def test_an_index_that_nobody_vouches_for_is_not_asked(
    make: Make, index: PackageIndex, proxy: WebProxy, folder: Path
) -> None:
    (folder / "other").mkdir(mode=0o755)
    others = Authority(folder / "other")
    others.ca.chmod(0o644)
    for certificates in (None, others.ca):
        with pytest.raises(EnvironmentFailed, match="'tiny' cannot be had") as failed:
            await make("tiny", index=f"https://{NAME}/simple/", proxy=proxy.url, certificates=certificates)
        assert "certificate" in failed.value.details["log"]
    assert index.asked == []


async def test_what_fails_tells_nobody_where_the_index_is_and_how_one_gets_in(
    make: Make, proxy: WebProxy, authority: Authority
) -> None:
    secret = f"https://reader:hush-index@{NAME}/simple/"
    wrong = proxy.url.replace(CREDENTIALS[1], "hush-wrong")
    for way in (proxy.url, wrong):
        with pytest.raises(EnvironmentFailed) as failed:
            await make("absent", index=secret, proxy=way, certificates=authority.ca)
        said = f"{failed.value} {failed.value.details}"
        for hidden in ("hush", NAME, "operator", "reader", way.rpartition(":")[2]):
            assert hidden not in said
    assert proxy.refused > 0


async def test_the_fetcher_has_the_operators_settings_in_its_environment_and_nothing_else(
    make: Make, plain_index: PackageIndex, proxy: WebProxy, authority: Authority
) -> None:
    proxy.ports[NAME] = plain_index.port
    index = f"http://{NAME}/simple/"
    plain_index.open.clear()
    making = asyncio.create_task(make("tiny", index=index, proxy=proxy.url, certificates=authority.ca))
    assert await asyncio.to_thread(plain_index.reached.wait, 60)
    [environment] = _environments()
    plain_index.open.set()
    await making
    assert environment.keys() == {
        *("PATH", "HOME", "TMPDIR", "LANG", "UV_DEFAULT_INDEX", "SSL_CERT_FILE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
    }
    assert environment["UV_DEFAULT_INDEX"] == index
    assert environment["SSL_CERT_FILE"] == str(authority.ca)
    assert {environment[name] for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")} == {proxy.url}


def _environments() -> list[dict[str, str]]:
    """Of the fetchers that run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            try:
                if b"install" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    pairs = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
                    found.append(dict(pair.split("=", 1) for pair in pairs if pair))
            except OSError:
                continue  # it has ended
    return found
