"""Lists in the configuration: the same words in the environment as in flags."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from cellyard_controller.config import Config, with_sources


@pytest.mark.parametrize("text", ["unix:/a,127.0.0.1:1", '["unix:/a", "127.0.0.1:1"]'])
def test_lists_in_the_environment_are_words_with_commas_or_json(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_LISTEN", text)
    assert Config().listen == ("unix:/a", "127.0.0.1:1")
    monkeypatch.setenv("CELLYARD_RUNTIME", "process")
    assert Config().runtime == ("process",)


def test_what_is_no_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLYARD_LISTEN", '["unix:/a"')
    with pytest.raises(ValidationError, match="listen"):
        Config()


def test_a_store_is_a_file_or_postgresql_and_no_password_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config().store.url == ""
    url = "postgresql://u:se@cret@db.example.org/cellyard?sslmode=require"
    monkeypatch.setenv("CELLYARD_STORE__URL", url)
    config = Config()
    assert config.store.url == url
    shown = json.dumps(with_sources(config, None))
    assert "cret" not in shown
    assert "postgresql://u:***@db.example.org/cellyard?sslmode=require" in shown
    for wrong in ({"url": "mysql://h/d"}, {"url": "postgresql://h"}, {"blobs": "database"}, {"blobs": "elsewhere"}):
        monkeypatch.delenv("CELLYARD_STORE__URL", raising=False)
        with pytest.raises(ValidationError, match="store"):
            Config(store=wrong)
