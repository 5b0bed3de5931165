"""The data folder as an operator names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellyard_controller.config import Config


def test_a_relative_data_folder_is_that_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config(data=Path("data")).data == tmp_path / "data"
