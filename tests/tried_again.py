"""A test that is run again starts from nothing: what the tests of its file share is made anew too.

What the first try has left in a shared controller, its notebooks for one, would else decide the second.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """After a failure that will be tried again, ends the fixtures of all scopes."""
    failed = any(getattr(item, "_test_failed_statuses", {}).values())
    if failed and getattr(item, "execution_count", 0) <= (item.config.getoption("reruns") or 0):
        item.session._setupstate.teardown_exact(None)
