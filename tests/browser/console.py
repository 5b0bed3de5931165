"""A real controller's console in a real browser, as tests and pictures for the documentation use it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.async_api import Browser, Locator, Page, expect

from cellyard import AsyncSession
from tests.controller_process import Process

WITHIN_MS = 60_000
expect.set_options(timeout=WITHIN_MS)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Served:
    """A controller that serves the console."""

    def __init__(self, process: Process) -> None:
        self.process = process
        found = re.search(r"console=(\S+)", _COLOURS.sub("", process.log.read_text()))
        assert found is not None, "it does not say where the console is"
        self.url = found.group(1)

    @property
    def token(self) -> str:
        return (self.process.data / "http.token").read_text().strip()

    def session(self, notebook: str, token: str | None = None) -> AsyncSession:
        """A client of the controller, beside the browser."""
        return AsyncSession(notebook, endpoint=self.process.endpoint, token=token)

    def address(self, notebook: str, tenant: str = "local") -> str:
        return f"{self.url}#/n/{tenant}/{quote(notebook, safe='')}"


@contextmanager
def serving(folder: Path, **env: str) -> Iterator[Served]:
    """Runs a controller on a data folder of its own."""
    process = Process(folder)
    process.start("--http", "127.0.0.1:0", env=env)
    try:
        yield Served(process)
    finally:
        process.close()


@asynccontextmanager
async def opened(browser: Browser, **context: Any) -> AsyncIterator[Page]:
    """A page of a browser profile of its own. Errors of its scripts fail the test."""
    profile = await browser.new_context(**context)
    profile.set_default_timeout(WITHIN_MS)
    page = await profile.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        yield page
        assert errors == []
    finally:
        await profile.close()


async def log_in(page: Page, served: Served, address: str = "", token: str = "") -> None:
    """Opens the console as somebody who has the token; the operator's where none is given."""
    await page.goto(address or served.url)
    await page.get_by_label("Token").fill(token or served.token)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Log out")).to_be_visible()


def cell(page: Page, number: int) -> Locator:
    """A code cell by its place."""
    return page.get_by_role("article", name=f"Code cell {number}")


async def run(page: Page, number: int, source: str, end: str = "succeeded") -> Locator:
    """Writes a cell, runs it with the keyboard and waits for its end; its outputs."""
    text = page.get_by_label(f"Text of cell {number}", exact=True)
    await text.fill(source)
    await text.press("Control+Enter")
    await expect(cell(page, number).locator(".state")).to_contain_text(end)
    return page.get_by_role("group", name=f"Output of cell {number}", exact=True)
