"""The wheel alone, in an environment of its own and away from the checkout: it builds images and runs code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[2]
NAME = f"wheeltest-{uuid.uuid4().hex[:8]}"
T = TypeVar("T")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]


class Installed:
    """`cellyard[controller]` as a user installs it, and that user's folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheel = self._timed("wheel", self._built)
        self._timed("install", self._installed)

    def __call__(
        self, *words: str, ok: tuple[int, ...] = (0,), env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of it; how long it took is printed."""
        begun = time.monotonic()
        command = [str(self.folder / "venv" / "bin" / "cellyard"), *words]
        done = _run(command, self.folder, env=self._env() | (env or {}))
        print(f"cellyard {words[0]} {words[1] if len(words) > 1 else ''}: {time.monotonic() - begun:.1f} s")
        assert done.returncode in ok, done.stderr
        return done

    def _built(self) -> Path:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w"]
        _run([*command, str(self.folder), str(ROOT)], self.folder).check_returncode()
        return next(self.folder.glob("cellyard-*.whl"))

    def _installed(self) -> None:
        # The versions that are locked: this is about the wheel, not about what else was published today.
        python = str(self.folder / "venv" / "bin" / "python")
        _run([find_uv_bin(), "venv", "--quiet", "--python", sys.executable, "venv"], self.folder).check_returncode()
        locked = ROOT / "requirements" / "dev.lock"
        pins = "".join(
            line.split("\\")[0].strip() + "\n" for line in locked.read_text().splitlines() if line[:1].isalnum()
        )
        (self.folder / "pins.txt").write_text(pins)
        command = [find_uv_bin(), "pip", "install", "--quiet", "--python", python, "--constraints", "pins.txt"]
        done = _run([*command, f"{self.wheel}[controller]"], self.folder)
        assert done.returncode == 0, done.stderr

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        begun = time.monotonic()
        result = work()
        print(f"{what}: {time.monotonic() - begun:.1f} s")
        return result

    def _env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("CELLYARD_", "PYTHON"))}
        return kept | {"XDG_STATE_HOME": f"{self.folder}/s", "XDG_RUNTIME_DIR": f"{self.folder}/r"}


def _run(command: list[str], folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def installed(built_image: str, module_folder: Path) -> Iterator[Installed]:
    (module_folder / "r").mkdir(mode=0o700)
    cellyard = Installed(module_folder)
    yield cellyard
    cellyard("stop")
    cellyard("images", "remove", NAME, ok=(0, 2))


def test_the_wheel_alone_checks_the_machine_builds_images_and_runs_notebooks(
    installed: Installed, built_image: str
) -> None:
    assert not any(name.startswith("tests") for name in zipfile.ZipFile(installed.wheel).namelist())
    doctor = json.loads(installed("doctor", "--json").stdout)
    assert doctor["ok"]
    # The same names: what images are made from is in the wheel as it is in the checkout, byte for byte.
    built = json.loads(installed("images", "build", "--json").stdout)
    assert built_image in [each["reference"] for each in built]
    # An image of its own is really built, with the agent that the wheel has.
    (installed.folder / "Dockerfile").write_text("FROM cellyard-environment\nENV FLAVOUR=wheel\n")
    own = installed("images", "build", NAME, "--file", "Dockerfile").stdout.strip()
    assert NAME in own
    (installed.folder / "cellyard.toml").write_text(f'[templates.own]\nimage = "{own}"\n')
    (installed.folder / "code.py").write_text("import os; print(os.environ['FLAVOUR'], 6 * 7)")
    config = {"CELLYARD_CONFIG": str(installed.folder / "cellyard.toml"), "CELLYARD_POOL__SIZE": "0"}
    ran = installed("run", "code.py", "--template", "own", "--require", "container_isolation", env=config)
    assert ran.stdout == "wheel 42\n"
