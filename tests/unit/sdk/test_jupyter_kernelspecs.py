"""`cellyard jupyter`: what it writes, what it finds, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from typer.testing import CliRunner

from cellyard.cli.app import app
from cellyard.jupyter.provisioner import CellyardProvisioner
from cellyard.jupyter.settings import Settings

runner = CliRunner()


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix where front ends look for kernelspecs, and nowhere else of the user's."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "own"))
    return tmp_path


def command(*words: str) -> tuple[int, str, str]:
    done = runner.invoke(app, ["jupyter", *words])
    return done.exit_code, done.stdout, done.stderr


def test_kernelspecs_are_written_found_and_removed(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_TOKEN", "very secret")
    asked = ("--endpoint", "unix:/run/x", "--template", "big", "--require", "container_isolation", "--files", "beside")
    code, said, _ = command("install", "--prefix", str(prefix), *asked)
    assert code == 0
    assert [line.split()[0] for line in said.splitlines()] == ["cellyard-python", "cellyard-deno"]
    spec = KernelSpecManager().get_kernel_spec("cellyard-python")
    assert (spec.display_name, spec.language, spec.interrupt_mode) == ("Python (Cellyard)", "python", "message")
    assert spec.metadata["kernel_provisioner"]["config"] == {
        "kernel": "python",
        "endpoint": "unix:/run/x",
        "template": "big",
        "require": ["container_isolation"],
        "files": "beside",
    }
    for written in prefix.rglob("kernel.json"):
        assert "secret" not in written.read_text()
    factory = KernelProvisionerFactory.instance()
    assert factory.is_provisioner_available(spec)
    made = factory.create_provisioner_instance("id", spec, parent=None)
    assert isinstance(made, CellyardProvisioner)
    assert made.template == "big"
    _, listed, _ = command("list", "--json")
    assert {"cellyard-python", "cellyard-deno"} <= {each["name"] for each in json.loads(listed)}
    code, gone, _ = command("remove", "cellyard-deno")
    assert (code, gone.split()[0]) == (0, "cellyard-deno")
    assert not (prefix / "share/jupyter/kernels/cellyard-deno").exists()


def test_one_kernel_gets_the_name_that_was_asked_for(prefix: Path) -> None:
    title = ("--name", "mine", "--display-name", "Mine")
    command("install", "--user", "--kernel", "python", *title)
    spec = KernelSpecManager().get_kernel_spec("mine")
    assert spec.display_name == "Mine"
    assert spec.resource_dir.startswith(str(prefix / "own"))


def test_nothing_of_another_is_removed(prefix: Path) -> None:
    other = prefix / "share/jupyter/kernels/other/kernel.json"
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps({"argv": ["x"], "display_name": "x", "language": "x"}))
    code, _, said = command("remove", "other")
    assert (code, other.exists()) == (2, True)
    assert "no kernelspec of Cellyard's named other" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--kernel", "ruby"], "ruby"),
        (["--kernel", ","], "--kernel names none"),
        (["--files", "all"], "files"),
        (["--name", "No Spaces", "--kernel", "python"], "a kernelspec's name"),
        (["--endpoint", "nowhere"], "is no endpoint"),
        (["--user"], "not both"),
    ],
)
def test_what_cannot_be_written_is_refused(prefix: Path, flags: list[str], says: str) -> None:
    code, _, said = command("install", "--prefix", str(prefix), *flags)
    assert code == 2
    assert says in said
    assert not list(prefix.rglob("kernel.json"))


@pytest.mark.parametrize("config", [{"no_such": 1}, {"require": "x"}, {"idle_timeout": "long"}, {"kernel": 5}])
def test_a_kernelspec_that_was_written_by_hand_is_checked(config: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"kernelspec.*{next(iter(config))}"):
        Settings.read(config)


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = """
import sys
sys.modules['jupyter_client'] = sys.modules['zmq'] = None
import cellyard
from cellyard.cli import main
sys.argv = ['cellyard', 'jupyter', 'list']
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert 'pip install "cellyard[jupyter]"' in done.stderr
