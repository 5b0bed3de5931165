"""A real browser, driven from outside."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, async_playwright


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The distribution's chromium, one for all tests; each opens pages in a context of its own.

    Playwright's asynchronous side: its synchronous one leaves a running event loop behind in the main thread, on which
    every later asynchronous test of the process fails. The browser lives on the session's loop, so a module that uses
    it says `pytestmark = pytest.mark.asyncio(loop_scope="session")`.
    """
    program = shutil.which("chromium")
    assert program is not None, "there is no chromium: `make chromium` installs it"
    async with async_playwright() as playwright:
        # Its own sandbox is impossible for root; /dev/shm is small in containers.
        browser = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        await browser.close()
