"""Templates of an operator's own: images built by the command, limits, pools, and what tenants hear of them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from docker import DockerClient

import cellyard
from cellyard_controller.runtimes.docker import images
from tests.controller_process import Process
from tests.package_index import PackageIndex

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

NAME = f"e2e-{os.getpid()}"
DOCKERFILE = "FROM cellyard-environment\nCOPY greeting /opt/greeting\nRUN echo built >> /opt/greeting\n"
CONFIGURATION = """
[templates.science]
image = "{image}"
memory = 268435456
pids = 64
home = 8388608
tmp = 4194304
pool = 1

[templates.strong]
image = "{image}"
oci_runtime = "runsc"

[templates.missing]
image = "no-such-image:1"

[templates.bare]
image = "{bare}"

[templates.default.python]
"3.12" = "no-such-image:3.12"
"""


@pytest.fixture(scope="module")
def engine(built_image: str) -> Iterator[DockerClient]:
    with closing(images.connect()) as client:
        yield client


@pytest.fixture(scope="module")
def index() -> Iterator[PackageIndex]:
    index = PackageIndex()
    index.add("tiny", "1.0", {"tiny.py": "ANSWER = 42\n"}, requires=["needed"])
    index.add("needed", "1.0")
    index.add("cycler", "9.9", {"cycler.py": "MINE = True\n"})
    index.add("pyparsing", "0.1", {"pyparsing.py": ""})
    yield index
    index.close()


def command(*words: str, index: PackageIndex) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `cellyard images ...`."""
    done = subprocess.run(
        [sys.executable, "-m", "cellyard_controller", "images", *words],
        env={**os.environ, "CELLYARD_ENVIRONMENTS__INDEX": index.url},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def custom(engine: DockerClient, index: PackageIndex, module_folder: Path) -> Iterator[dict[str, Any]]:
    """An image with a requirement of its own, and another version of what ours has: what the command says of it."""
    (module_folder / "files").mkdir()
    (module_folder / "files" / "greeting").write_text("hello\n")
    (module_folder / "Dockerfile").write_text(DOCKERFILE)
    (module_folder / "requirements.txt").write_text("tiny  # with what it needs\ncycler==9.9\n")
    words = ["build", NAME, "--file", f"{module_folder}/Dockerfile", "--context", f"{module_folder}/files", "--json"]
    code, said, told = command(*words, "--requirements", f"{module_folder}/requirements.txt", index=index)
    assert code == 0, told
    yield json.loads(said)
    command("remove", NAME, index=index)


@pytest.fixture(scope="module")
def bare(engine: DockerClient, built_image: str) -> Iterator[str]:
    """An image that says nothing of the agent in it."""
    tag = f"cellyard-e2e-bare-{os.getpid()}:1"
    text = f'FROM {built_image}\nLABEL {images.AGENT_LABEL}=""\n'
    engine.images.build(fileobj=io.BytesIO(text.encode()), tag=tag, rm=True)
    yield tag
    engine.images.remove(tag)


@pytest.fixture(scope="module")
def controller(custom: dict[str, Any], bare: str, module_folder: Path) -> Iterator[Process]:
    process = Process(module_folder)
    configuration = module_folder / "cellyard.toml"
    configuration.write_text(CONFIGURATION.format(image=custom["reference"], bare=bare))
    process.start("--config", str(configuration))
    yield process
    process.close()


def test_the_command_says_what_it_built_and_finds_it_there_the_next_time(
    custom: dict[str, Any], index: PackageIndex, module_folder: Path
) -> None:
    assert custom["name"] == NAME
    assert custom["reference"].startswith(f"cellyard-custom-{NAME}:")
    assert (custom["python"], custom["new"]) == ("3.11", True)
    assert custom["packages"] == ["cycler==9.9", "needed==1.0", "tiny==1.0"]
    words = ["build", NAME, "--file", f"{module_folder}/Dockerfile", "--context", f"{module_folder}/files", "--json"]
    code, said, _ = command(*words, "--requirements", f"{module_folder}/requirements.txt", index=index)
    assert (code, json.loads(said)) == (0, {**custom, "new": False})
    code, said, _ = command("list", "--json", index=index)
    (mine,) = [each for each in json.loads(said) if each["reference"] == custom["reference"]]
    assert (code, mine["custom"], mine["expected"]) == (0, NAME, True)


def test_a_session_in_it_has_what_was_built_and_passes_the_canary(controller: Process) -> None:
    with cellyard.Session(
        endpoint=controller.endpoint, template="science", require={"container_isolation", "network_isolation"}
    ) as session:
        assert session.run("import tiny, needed\ntiny.ANSWER").value == 42
        assert session.run("tiny.__cached__").value.endswith("/site-packages/__pycache__/tiny.cpython-311.pyc")
        assert session.run("open('/opt/greeting').read()").value == "hello\nbuilt\n"
        assert session.run("import cycler\ncycler.MINE").value is True
        versions = "from importlib.metadata import distributions\n[d.version for d in distributions(name='cycler')]"
        assert session.run(versions).value == ["9.9"]
        assert all(each.granted for each in session.capabilities())


def test_a_session_finds_one_of_its_pool(controller: Process) -> None:
    client = cellyard.Client(controller.endpoint)
    try:
        for sandbox in client.watch_sandboxes():
            if (sandbox.template, sandbox.state) == ("science", "warm"):
                break
        before = {pool.template: pool.misses for pool in client.list_pools()}
        with cellyard.Session(endpoint=controller.endpoint, template="science") as session:
            assert session.run("import tiny\ntiny.ANSWER").value == 42
        assert {pool.template: pool.misses for pool in client.list_pools()} == before
        assert "science" in before
    finally:
        client.close()


def test_the_limits_of_the_template_bite(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, template="science") as session:
        for place in ("/home/sandbox/x", "/tmp/x"):
            full = session.run(f"open({place!r}, 'wb').write(bytes(10 << 20))")
            assert full.error is not None
            assert full.error.ename == "OSError"
        crowded = session.run(
            "import threading, time\nfor _ in range(200): threading.Thread(target=time.sleep, args=(5,)).start()"
        )
        assert crowded.error is not None
        assert crowded.error.ename == "RuntimeError"
    with cellyard.Session(endpoint=controller.endpoint, template="science") as session:
        died = session.run("x = bytearray(512 << 20)")
        assert died.error is not None
        assert died.end_reason == "oom" or died.error.ename == "MemoryError"


def test_a_template_on_gvisor_runs_it_or_says_why_not(controller: Process, engine: DockerClient) -> None:
    with cellyard.Session(endpoint=controller.endpoint, template="strong") as session:
        if "runsc" not in engine.info()["Runtimes"]:
            with pytest.raises(cellyard.CapabilityUnavailable, match="no OCI runtime runsc"):
                session.run("1")
            return
        assert session.run("import tiny\ntiny.ANSWER").value == 42
        assert session.run("import os\nos.uname().release").value != os.uname().release


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("missing", r"no image no-such-image:1 for the template missing.*cellyard images build"),
        ("bare", r"of the template bare has no kernel agent.*cellyard images build"),
    ],
)
def test_an_image_that_is_not_there_or_has_no_agent_is_refused_with_the_remedy(
    controller: Process, template: str, why: str
) -> None:
    session = cellyard.Session(endpoint=controller.endpoint, template=template)
    with session, pytest.raises(cellyard.CapabilityUnavailable, match=why):
        session.run("1")


def test_an_unknown_template_is_told_with_those_that_there_are(controller: Process) -> None:
    session = cellyard.Session(endpoint=controller.endpoint, template="no-such")
    with session, pytest.raises(cellyard.InvalidRequest, match="'no-such': bare, default, missing, science, strong"):
        session.run("1")


@pytest.mark.parametrize(
    ("template", "version", "why"),
    [
        ("science", "3.12", r"Python 3\.12 cannot be had: the template 'science' has 3\.11\.\d+"),
        ("default", "3.12", r"cannot be had \(the engine has no image no-such-image:3\.12.*'default' has 3\.11\.\d+"),
    ],
)
def test_a_python_that_no_image_has_is_refused_with_those_that_there_are(
    controller: Process, template: str, version: str, why: str
) -> None:
    session = cellyard.Session(endpoint=controller.endpoint, template=template, python_version=version)
    with session, pytest.raises(cellyard.EnvironmentFailed, match=why):
        session.run("1")


def test_the_python_of_an_operators_image_may_be_asked_for(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, template="science", python_version="3.11") as session:
        assert session.run("import tiny\ntiny.ANSWER").value == 42


@pytest.mark.parametrize(
    ("text", "required", "code", "why"),
    [
        ("FROM cellyard-environment\nENV PATH=/nowhere\n", "", 1, "has no python3 on its path"),
        (
            "FROM cellyard-environment\nRUN mv /opt/venv/lib/python3.11/site-packages/IPython /x\n",
            "",
            1,
            "kernel agent",
        ),
        ("FROM cellyard-environment\nRUN echo no good; exit 3\n", "", 1, "no good"),
        ("FROM no-such-image:1\n", "", 2, "Image.txt, line 1: the engine has no image no-such-image:1"),
        ("FROM cellyard-environment:3.9\n", "", 2, "has Python 3.11, 3.13"),
        ("FROM cellyard-environment\nENTRYPOINT x\n", "", 2, "Image.txt, line 2: ENTRYPOINT is refused"),
        ("FROM cellyard-environment\n", "no-such-thing>=3", 1, "no-such-thing"),
        ("FROM cellyard-environment\n", "pyparsing==0.1", 1, "pyparsing"),  # matplotlib needs a newer one
    ],
)
def test_what_cannot_be_built_is_told_and_leaves_nothing(
    engine: DockerClient, index: PackageIndex, tmp_path: Path, text: str, required: str, code: int, why: str
) -> None:
    (tmp_path / "Image.txt").write_text(text)
    words = ["build", f"{NAME}-bad", "--file", f"{tmp_path}/Image.txt"]
    if required:
        (tmp_path / "requirements.txt").write_text(required)
        words += ["--requirements", f"{tmp_path}/requirements.txt"]
    exit_code, said, told = command(*words, index=index)
    assert (exit_code, said) == (code, ""), told
    assert why in told
    assert images.list_custom(engine, f"{NAME}-bad") == []


def test_words_that_do_not_go_together_are_a_wrong_use(index: PackageIndex, tmp_path: Path) -> None:
    for words, why in (
        (["--requirements", "x"], "needs a name"),
        ([NAME], "needs --file Dockerfile, or --requirements"),
        ([NAME, "--file", f"{tmp_path}/none"], "none cannot be read: No such file"),
        (["Upper", "--file", "x"], "is no name for an image"),
        (["--python", "3.9"], "there are 3.11, 3.13"),
    ):
        code, said, told = command("build", *words, index=index)
        assert (code, said) == (2, ""), told
        assert why in told
    assert command("remove", "no-such", index=index)[0] == 2
