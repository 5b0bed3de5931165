"""The default image as it stands on the engine, asked from inside a container of the kind that sandboxes are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker import DockerClient

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import building, images

pytestmark = pytest.mark.docker
UID = 31337


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerClient]:
    """The engine. Without one, tests are skipped; not so where CI=true."""
    try:
        client = images.connect()
    except RuntimeFailed as failure:
        if os.environ.get("CI") == "true":
            pytest.fail(str(failure))
        pytest.skip(str(failure))
    yield client
    client.close()


@pytest.fixture(scope="module")
def image(engine: DockerClient) -> str:
    """The default image, built where it is missing."""
    return images.build(print, client=engine)


def inside(engine: DockerClient, image: str, code: str) -> str:
    """What a Python script prints in a container that is locked down as a sandbox is."""
    output = engine.containers.run(
        image,
        ["python3", "-c", code],
        remove=True,
        network_mode="none",
        read_only=True,
        user=f"{UID}:{UID}",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        tmpfs={"/home/sandbox": f"exec,mode=0700,uid={UID},gid={UID}", "/tmp": "mode=1777"},
        environment={"HOME": "/home/sandbox", "USER": "sandbox", "LOGNAME": "sandbox"},
    )
    assert isinstance(output, bytes)
    return output.decode()


def test_a_second_build_finds_nothing_to_do(engine: DockerClient, image: str) -> None:
    told: list[str] = []
    assert images.build(told.append, client=engine) == image == images.expected_image()
    assert told == []


def test_the_image_is_listed_as_the_expected_one(engine: DockerClient, image: str) -> None:
    (expected,) = [listed for listed in images.list_images(engine, ["python"]) if listed.expected]
    assert expected.reference == image
    assert 100_000_000 < expected.size_bytes < 800_000_000


def test_the_image_starts_the_agent_as_nobody(engine: DockerClient, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert config["Cmd"] == ["python3", "-m", "cellyard_sandbox"]
    assert not config["Entrypoint"]
    assert config["User"] == "65534:65534"
    assert not config.get("Volumes")
    assert not config.get("ExposedPorts")


def test_cells_find_the_promised_packages(engine: DockerClient, image: str) -> None:
    code = (
        "import numpy, pandas, scipy.optimize, scipy.signal, matplotlib.pyplot, ipywidgets, ipykernel\n"
        "import bz2, ctypes, curses, lzma, readline, sqlite3, ssl, uuid, venv, zoneinfo\n"
        "print(numpy.linalg.inv(numpy.eye(2)).sum(), zoneinfo.ZoneInfo('Europe/Vienna'))\n"
        "print(pandas.Timestamp('2024-07-01', tz='Asia/Tokyo').isoformat())"
    )
    assert inside(engine, image, code) == "2.0 Europe/Vienna\n2024-07-01T00:00:00+09:00\n"


def test_the_agent_and_the_protocol_are_there_and_nothing_of_the_controller(engine: DockerClient, image: str) -> None:
    code = (
        "import importlib.util as u\n"
        "names = ('cellyard_sandbox', 'cellyard_proto.framing', 'cellyard_proto.v1.link_pb2')\n"
        "print([u.find_spec(name) is not None for name in names])\n"
        "print([u.find_spec(name) for name in ('cellyard', 'cellyard_controller', 'grpc', 'docker', 'pip')])"
    )
    assert inside(engine, image, code) == "[True, True, True]\n[None, None, None, None, None]\n"


def test_all_bytecode_is_compiled(engine: DockerClient, image: str) -> None:
    code = (
        "import importlib.util, pathlib, sysconfig\n"
        "folders = {sysconfig.get_path('stdlib'), sysconfig.get_path('purelib'), '/opt/cellyard'}\n"
        "files = [f for folder in folders for f in pathlib.Path(folder).rglob('*.py')]\n"
        "skipped = ('/test/', '/tests/', 'lib2to3', '/bad_', 'dist-packages')\n"
        "files = [f for f in files if not any(s in str(f) for s in skipped)]\n"
        "bare = [str(f) for f in files if not pathlib.Path(importlib.util.cache_from_source(f)).exists()]\n"
        "print(len(files) > 3000, bare)"
    )
    assert inside(engine, image, code) == "True []\n"


def test_compiled_bytecode_is_used(engine: DockerClient, image: str) -> None:
    code = (
        "import subprocess, sys\n"
        "modules = 'asyncio, IPython, jupyter_client, ipykernel.kernelapp, matplotlib.pyplot, cellyard_proto.framing'\n"
        "said = subprocess.run([sys.executable, '-v', '-c', 'import ' + modules], capture_output=True, text=True)\n"
        "lines = [line for line in said.stderr.splitlines() if line.startswith('# code object from')]\n"
        'print(said.returncode, len(lines) > 500, [line for line in lines if not line.endswith(".pyc\'")])'
    )
    assert inside(engine, image, code) == "0 True []\n"


def test_a_fresh_home_has_the_font_cache(engine: DockerClient, image: str) -> None:
    code = (
        "import os, pathlib, sys\n"
        "assert 'matplotlib' not in sys.modules\n"
        "(cache,) = pathlib.Path.home().glob('.cache/matplotlib/fontlist-*.json')\n"
        "before = cache.stat().st_mtime_ns\n"
        "import matplotlib.font_manager\n"
        "print(cache.stat().st_mtime_ns == before, pathlib.Path(matplotlib.get_cachedir()) == cache.parent)\n"
        "print(oct(os.stat(pathlib.Path.home()).st_mode & 0o7777), os.stat(pathlib.Path.home()).st_uid)"
    )
    assert inside(engine, image, code) == f"True True\n0o700 {UID}\n"


def test_nothing_in_the_image_gives_more_rights(engine: DockerClient, image: str) -> None:
    # As root and unhardened, so that no folder is hidden from the search.
    doubtful = ["(", "-perm", "/6000", "-o", "-name", "apt-get", "-o", "-name", "*.whl", ")"]
    search = ["find", "/", "-xdev", "-type", "f", *doubtful]
    assert engine.containers.run(image, search, user="0", network_mode="none", remove=True) == b""
    code = (
        "import os\n"
        "top = set(os.listdir('/')) - {'proc', 'sys', 'dev'}\n"
        "print([name for name in top if os.access('/' + name, os.W_OK)])"
    )
    writable = ["python3", "-c", code]
    output = engine.containers.run(image, writable, user=f"{UID}:{UID}", network_mode="none", remove=True)
    assert output == b"['tmp']\n"


def test_a_careless_container_would_be_allowed_to_write(engine: DockerClient, image: str) -> None:
    # The positive control of the test above: it is the image that says no, not the way of asking.
    code = "import os; print(os.access('/opt', os.W_OK), os.access('/etc', os.W_OK))"
    command = ["python3", "-c", code]
    assert engine.containers.run(image, command, user="0", network_mode="none", remove=True) == b"True True\n"


def test_a_changed_agent_costs_one_layer_and_old_images_go(
    engine: DockerClient, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cellyard-imagetest-{os.getpid()}"
    packages = {package: images.package_folder(package) for package in ("cellyard_proto", "cellyard_sandbox")}
    packages["cellyard_sandbox"] = tmp_path / "cellyard_sandbox"
    shutil.copytree(images.package_folder("cellyard_sandbox"), tmp_path / "cellyard_sandbox")
    monkeypatch.setattr(images, "PYTHON", name)
    monkeypatch.setattr(images, "package_folder", packages.__getitem__)
    built: list[str] = []
    held = None
    try:
        for turn in range(images.KEPT + 2):
            (tmp_path / "cellyard_sandbox" / "turn.py").write_text(f"TURN = {turn}\n")
            built.append(images.build(print, client=engine))
            if held is None:
                held = engine.containers.create(built[0], network_mode="none")
            code = "from cellyard_sandbox import turn; print(turn.TURN)"
            assert inside(engine, built[-1], code) == f"{turn}\n"
        assert len(set(built)) == len(built)
        layers = [engine.images.get(reference).attrs["RootFS"]["Layers"] for reference in (built[-1], image)]
        assert layers[0][:-2] == layers[1][:-2]

        left = [listed.reference for listed in images.list_images(engine, ["python"])]
        # The newest stay, and one that a container uses.
        assert sorted(left) == sorted([built[0], *built[-images.KEPT :]])
        assert engine.images.get(f"{name}:latest").id == engine.images.get(built[-1]).id
    finally:
        if held is not None:
            held.remove()
        for tag in [tag for found in engine.images.list(name=name) for tag in found.tags]:
            engine.images.remove(tag)


def test_sources_that_change_during_a_build_give_no_image(
    engine: DockerClient, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"cellyard-imagetest-{os.getpid()}"
    packages = {package: images.package_folder(package) for package in ("cellyard_proto", "cellyard_sandbox")}
    agent = packages["cellyard_sandbox"] = tmp_path / "cellyard_sandbox"
    shutil.copytree(images.package_folder("cellyard_sandbox"), agent)
    monkeypatch.setattr(images, "PYTHON", name)
    monkeypatch.setattr(images, "package_folder", packages.__getitem__)
    promised = images.expected_image()
    with pytest.raises(building.ImageBuildFailed, match="build it again"):
        images.build(lambda step: (agent / "meanwhile.py").touch() if "agent" in step else None, client=engine)
    assert engine.images.list(name=name) == []
    assert images.expected_image() != promised


def test_builds_leave_no_unnamed_images(engine: DockerClient, image: str) -> None:
    left = engine.images.list(filters={"dangling": True, "label": "cellyard.image"})
    assert [json.dumps(found.attrs["Config"]["Labels"]) for found in left] == []
