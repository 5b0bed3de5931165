"""The service unit: systemd understands all of it, and it names what the controller has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cellyard_controller.config import Config

UNIT = Path(__file__).parents[3] / "packaging" / "systemd" / "cellyard.service"
PROGRAM = Path(sys.executable).with_name("cellyard")


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    here = tmp_path / "cellyard.service"
    here.write_text(UNIT.read_text().replace("/opt/cellyard/bin/cellyard", str(PROGRAM)))
    found = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, timeout=60, check=True)
    assert (found.stdout, found.stderr) == ("", "")
    here.write_text(here.read_text() + "KillMde=mixed\n")  # it says so where something is
    found = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, timeout=60, check=False)
    assert "KillMde" in found.stderr


def test_what_it_sets_the_controller_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in re.findall(r"^Environment=(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE):
        monkeypatch.setenv(name, value.replace("%S", str(tmp_path)).replace("%t", str(tmp_path)))
    config = Config()
    assert config.data == tmp_path / "cellyard"
    assert config.listen == (f"unix:{tmp_path}/cellyard/controller.sock",)
    assert (config.http.listen, config.log.format) == ("127.0.0.1:9090", "json")
    flags = re.search(r"^ExecStart=\S+ serve (.*)$", UNIT.read_text(), re.MULTILINE)
    assert flags is not None
    assert flags[1] == "--on-stop keep"
