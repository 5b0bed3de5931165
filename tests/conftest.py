"""What all tests share."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks and soaks run only when they are asked for by marker."""
    chosen = config.getoption("-m") or ""
    for name in ("bench", "soak"):
        if name not in chosen:
            for item in [item for item in items if item.get_closest_marker(name)]:
                items.remove(item)
    if os.environ.get("CI"):
        config.option.reportchars = config.option.reportchars or "fE"
