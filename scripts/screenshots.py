"""Takes the pictures of the console for the documentation: a real controller, real notebooks, a real browser."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from playwright.async_api import async_playwright, expect  # noqa: E402
from tests.browser.console import Served, cell, log_in, opened, serving  # noqa: E402

from cellyard import AsyncClient  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 150_000
TITLE = "# Orders of a week\n\nThe numbers are made up, the **sandbox** is not."
TABLE = """import pandas as pd
orders = pd.DataFrame({"day": ["Mon", "Tue", "Wed", "Thu", "Fri"], "orders": [31, 42, 38, 55, 61]})
orders.tail(3)"""
PLOT = """import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(5, 2.2))
axes.bar(orders["day"], orders["orders"], color="#26547c")
print("total:", orders["orders"].sum())
plt.show()"""
BUSY = "import time\nwhile True:\n    time.sleep(1)"


async def prepare(served: Served) -> list[asyncio.Task[object]]:
    """Tenants and notebooks, so that there is something to be seen; returns what runs on."""
    endpoint = served.process.endpoint
    async with AsyncClient(endpoint=endpoint) as client:
        tokens = {
            name: (await client.create_tenant(name, quotas)).token
            for name, quotas in {"research": {"sandboxes": 4}, "teaching": {"sandboxes": 1, "storage": "1GiB"}}.items()
        }
    running: list[asyncio.Task[object]] = []
    for notebook, tenant in {"survey": "research", "lesson-1": "teaching", "lesson-2": "teaching"}.items():
        session = served.session(notebook, tokens[tenant])
        await session.connect()
        running.append(asyncio.create_task(_run(session)))
    return running


async def _run(session: object) -> object:
    return await session.run(BUSY)  # type: ignore[attr-defined]


async def pictures(served: Served) -> None:
    """All of them."""
    running = await prepare(served)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        light = {"color_scheme": "light"}
        async with served.session("orders") as session:
            await session.create_cell(TITLE, cell_type="markdown")
            for source in (TABLE, PLOT):
                assert (await session.run(source)).success
            async with opened(browser, viewport={"width": 1120, "height": 900}, **light) as page:
                await log_in(page, served)
                await expect(page.get_by_text("the tenant has as many sandboxes as it may have")).to_be_visible()
                await expect(page.get_by_text("capabilities proven").first).to_be_visible()
                await page.screenshot(path=IMAGES / "console-overview.png")
                await page.goto(served.address("orders"))
                await expect(cell(page, 3).get_by_role("img")).to_be_visible()
                await page.wait_for_load_state("networkidle")
                await page.screenshot(path=IMAGES / "console-notebook.png")
            async with opened(browser, viewport={"width": 380, "height": 760}, **light) as page:
                await log_in(page, served, served.address("orders"))
                await expect(cell(page, 3).get_by_role("img")).to_be_visible()
                await page.wait_for_load_state("networkidle")
                await page.screenshot(path=IMAGES / "console-phone.png")
        await browser.close()
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def main() -> None:
    """Writes docs/images/console-*.png."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="cy"))
    try:
        with serving(folder, CELLYARD_POOL__SIZE="2") as served:
            asyncio.run(pictures(served))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for image in sorted(IMAGES.glob("console-*.png")):
        size = image.stat().st_size
        print(f"{image.relative_to(ROOT)}  {size:,} bytes")
        if size > MOST_BYTES:
            sys.exit(f"{image.name} is larger than {MOST_BYTES:,} bytes")


if __name__ == "__main__":
    main()
