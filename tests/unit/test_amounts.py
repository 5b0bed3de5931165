"""Limits in words."""

from __future__ import annotations

import pytest

from cellyard_proto import amounts


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1 << 30, "1.0 GiB"), (1 << 60, "1048576.0 TiB")],
)
def test_sizes(count: int, words: str) -> None:
    assert amounts.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "0.5 s"), (5, "5 s"), (90, "90 s"), (1800, "30 min"), (3600, "60 min"), (86400, "24 h"), (7 * 86400, "7 d")],
)
def test_time_spans(seconds: float, words: str) -> None:
    assert amounts.duration(seconds) == words
