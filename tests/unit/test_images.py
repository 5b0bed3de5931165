"""The images' names, what goes into them, and what is said when they cannot be built; no engine needed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tarfile
import threading
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from docker import DockerClient

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import bases, building, images, wheels

ROOT = Path(__file__).parents[2]
LOCKS = sorted([*ROOT.glob("requirements/*.lock"), *ROOT.glob("images/*/*.lock")])


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything that images are made from, free to be changed."""
    folder = tmp_path / "sources"
    shutil.copytree(images.images_folder(), folder / "images")
    packages = {name: images.package_folder(name) for name in ("cellyard_proto", "cellyard_sandbox")}
    for name, package in packages.items():
        shutil.copytree(package, folder / name)
    monkeypatch.setattr(images, "images_folder", lambda: folder / "images")
    monkeypatch.setattr(images, "package_folder", lambda name: folder / name)
    return folder


def test_an_image_is_named_by_its_content() -> None:
    name = images.expected_image()
    assert re.fullmatch(r"cellyard-python:[0-9a-f]{12}", name)
    assert images.expected_image() == name


def test_a_copy_elsewhere_has_the_same_name(sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = images.expected_image()
    (sources / "cellyard_sandbox" / "__init__.py").touch()
    shutil.copytree(sources, tmp_path / "copy")
    monkeypatch.setattr(images, "images_folder", lambda: tmp_path / "copy" / "images")
    monkeypatch.setattr(images, "package_folder", lambda package: tmp_path / "copy" / package)
    assert images.expected_image() == name


@pytest.mark.parametrize(
    "changed",
    [
        "images/python/Dockerfile",
        "images/python/requirements.lock",
        "images/python/fresh_home.py",
        "images/agent/Dockerfile",
        "cellyard_sandbox/__init__.py",
        "cellyard_proto/framing.py",
    ],
)
def test_every_part_of_an_image_changes_its_name(sources: Path, changed: str) -> None:
    before = images.expected_image()
    with (sources / changed).open("a") as file:
        file.write("\n# changed\n")
    assert images.expected_image() != before


@pytest.mark.parametrize(
    "changed", ["images/deno/Dockerfile", "images/deno/requirements.lock", "images/python/pip.lock"]
)
def test_the_image_of_deno_kernels_has_parts_of_its_own(sources: Path, changed: str) -> None:
    before, python = images.expected_image("deno"), images.expected_image()
    assert re.fullmatch(r"cellyard-deno:[0-9a-f]{12}", before)
    with (sources / changed).open("a") as file:
        file.write("\n# changed\n")
    assert images.expected_image("deno") != before
    assert (images.expected_image() == python) is changed.startswith("images/deno")


def test_a_renamed_module_changes_the_name(sources: Path) -> None:
    before = images.expected_image()
    (sources / "cellyard_proto" / "framing.py").rename(sources / "cellyard_proto" / "frames.py")
    assert images.expected_image() != before


def test_another_base_changes_the_name(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = images.expected_image()
    monkeypatch.setattr(bases, "PACKAGES", (*bases.PACKAGES, "more"))
    assert images.expected_image() != before


@pytest.mark.parametrize(
    "litter", ["__pycache__/framing.cpython-311.pyc", "v1/new.proto", ".framing.py.swp", ".cache/x.py"]
)
def test_what_does_not_go_into_an_image_does_not_change_its_name(sources: Path, litter: str) -> None:
    before = images.expected_image()
    file = sources / "cellyard_proto" / litter
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("anything")
    assert images.expected_image() == before


def test_the_context_of_a_build_tells_nothing_of_who_made_it(sources: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "context.tar", "w") as tar:
        building.add_to_context(tar, building.context_of([(sources / "cellyard_proto", "cellyard/cellyard_proto")]))
    with tarfile.open(tmp_path / "context.tar") as tar:
        members = tar.getmembers()
    assert "cellyard/cellyard_proto/framing.py" in [member.name for member in members]
    assert {(member.uid, member.gid, member.uname, member.mtime) for member in members} == {(0, 0, "", 0)}
    assert {member.mode for member in members} <= {0o644, 0o755}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_locks_pin_everything_with_hashes_and_name_no_place(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"://|^-|file:|/\w+/", text, re.MULTILINE)
    pins = [line for line in text.splitlines() if re.match(r"[a-z0-9]", line)]
    assert pins
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9._-]+==[^ ]+( ; .+)? \\", pin), pin
    assert text.count("==") >= len(pins)
    assert text.count("--hash=sha256:") >= len(pins)


def test_the_locks_of_the_image_hold_what_the_agent_and_the_notebooks_need() -> None:
    pins = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "images/python/requirements.lock").read_text(), re.MULTILINE)
    wanted = {
        "ipykernel",
        "ipywidgets",
        "jupyter-client",
        "matplotlib",
        "numpy",
        "pandas",
        "protobuf",
        "scipy",
    }
    assert wanted <= set(pins)
    assert not {"grpcio", "docker", "sqlalchemy", "pip"} & set(pins)


def test_wheels_that_are_there_are_not_fetched_again(tmp_path: Path, wheel_cache: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("")
    told: list[str] = []
    first = wheels.fetch([lock], "amd64", told.append)
    (first / "marker").touch()
    again = wheels.fetch([lock], "amd64", told.append)
    assert again == first
    assert (again / "marker").exists()
    assert len(told) == 1


def test_wheels_of_another_lock_replace_the_old_ones(tmp_path: Path, wheel_cache: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("")
    first = wheels.fetch([lock], "amd64", print)
    lock.write_text("# other\n")
    second = wheels.fetch([lock], "amd64", print)
    assert list((wheel_cache / "cellyard" / "wheels" / "python").iterdir()) == [second]
    assert first != second


def test_packages_that_cannot_be_fetched_are_one_clear_sentence(
    tmp_path: Path, wheel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    lock = tmp_path / "some.lock"
    lock.write_text(f"ipykernel==7.1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(RuntimeFailed, match=r"could not be fetched: .*ipykernel") as caught:
        wheels.fetch([lock], "amd64", print)
    assert caught.value.reason == "image_missing"
    assert "Check that" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((wheel_cache / "cellyard" / "wheels" / "python").iterdir()) == []


@pytest.fixture
def python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this process takes for its interpreter: one as uv makes them."""
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    return python


def test_a_python_without_pip_fetches_with_one_that_is_made_once(
    tmp_path: Path, wheel_cache: Path, python_without_pip: Path
) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text("")
    wheels.fetch([lock], "amd64", print)
    made = [each for each in (wheel_cache / "cellyard").iterdir() if each.name.startswith("pip-")]
    assert len(made) == 1
    assert (made[0] / "bin" / "pip").exists()
    (made[0] / "marker").touch()
    lock.write_text("# other\n")
    wheels.fetch([lock], "amd64", print)
    assert (made[0] / "marker").exists()


def test_a_python_without_pip_and_with_no_way_to_it_is_told_how_to_get_it(
    tmp_path: Path, wheel_cache: Path, python_without_pip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stripped = tmp_path / "stripped"
    stripped.write_text(f'#!/bin/sh\n[ "$2" = venv ] && exit 1\nexec {python_without_pip} "$@"\n')
    stripped.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stripped))
    lock = tmp_path / "some.lock"
    lock.write_text("")
    with pytest.raises(RuntimeFailed, match="-m ensurepip"):
        wheels.fetch([lock], "amd64", print)


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(RuntimeFailed, match="machine type riscv64"):
        wheels.fetch([], "riscv64", print)


def test_a_host_of_the_same_release_gives_the_base_its_own_sources() -> None:
    targets = (
        "Debian http://mirror/debian/ bookworm main\n"
        "Debian http://mirror/debian/ bookworm contrib\n"
        "Debian http://mirror/debian/ bookworm-updates main\n"
        "Debian http://mirror/security/ bookworm-security main\n"
        "Elsewhere http://vendor/ stable main\n"
        "Debian http://mirror/debian/ bookworm-backports main\n"
        "\n"
    )
    assert bases.sources_for(targets, "bookworm", "bookworm") == (
        "deb http://mirror/debian/ bookworm main\n"
        "deb http://mirror/debian/ bookworm-updates main\n"
        "deb http://mirror/security/ bookworm-security main\n"
    )


def test_a_host_of_another_release_gives_its_mirror() -> None:
    targets = "Debian http://mirror/debian/ trixie main\nDebian http://mirror/debian/ trixie main\n"
    assert bases.sources_for(targets, "trixie", "bookworm") == "deb http://mirror/debian/ bookworm main\n"


def test_no_engine_is_one_clear_sentence_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(RuntimeFailed, match="no container engine listens") as caught:
        images.connect()
    assert "make setup" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_tools_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_without_registry: DockerClient
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeFailed, match="`apt-get install mmdebstrap` as root") as caught:
        bases.make("cellyard-base:test", engine_without_registry, print, install_tools=False)
    assert caught.value.reason == "image_missing"


def test_a_base_that_cannot_be_made_says_what_the_tool_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_without_registry: DockerClient
) -> None:
    tool = tmp_path / "mmdebstrap"
    tool.write_text("#!/bin/sh\necho 'E: no space left' >&2\nexit 25\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RuntimeFailed, match=r"E: no space left.*apt-get update"):
        bases.make("cellyard-base:test", engine_without_registry, print, install_tools=False)


@pytest.fixture
def wheel_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


class _Engine(BaseHTTPRequestHandler):
    """As much of an engine as is asked before anything is built: it reaches no registry."""

    def do_GET(self) -> None:
        self._answer(200, {"ApiVersion": "1.41", "Version": "20.10"})

    def do_POST(self) -> None:
        self._answer(500, {"message": "no such host"})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine_without_registry() -> Iterator[DockerClient]:
    """A client of an engine that can pull nothing."""
    with HTTPServer(("127.0.0.1", 0), _Engine) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = DockerClient(base_url=f"tcp://127.0.0.1:{server.server_port}", version="1.41")
        yield client
        client.close()
        server.shutdown()
