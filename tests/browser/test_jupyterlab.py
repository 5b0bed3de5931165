"""JupyterLab in a real browser: its kernels run in sandboxes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

import cellyard
from tests.controller_process import Process
from tests.e2e.jupyter.conftest import install

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

WAIT_MS = 60_000
TOKEN = "lab"
CELLS = [
    "import time, numpy as np, matplotlib.pyplot as plt\nplt.plot(np.arange(9) ** 2); plt.show()",
    """import ipywidgets as w
x = 41
slider, label = w.IntSlider(description='speed'), w.Label('untouched')
slider.observe(lambda change: setattr(label, 'value', f"moved to {change['new']}"), names='value')
display(slider, label)
print(x + 1)""",
    "print('running')\nwhile True: time.sleep(0.01)",
    "print('x' in globals())",
]


@dataclass
class Lab:
    """A JupyterLab server."""

    url: str
    folder: Path


@pytest.fixture(scope="module")
def service(built_image: str, module_folder: Path) -> Iterator[Process]:
    process = Process(module_folder)
    process.start(env={"CELLYARD_POOL__SIZE": "1"})
    yield process
    process.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def lab(service: Process, module_folder: Path) -> AsyncIterator[Lab]:
    """A JupyterLab with our kernelspecs, on a folder with a notebook."""
    install(module_folder, "--endpoint", service.endpoint)
    work = module_folder / "work"
    work.mkdir()
    spec = {"name": "cellyard-python", "display_name": "Python (Cellyard)", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS], metadata={"kernelspec": spec}
    )
    nbformat.write(notebook, work / "test.ipynb")
    own = {f"JUPYTER_{name}_DIR": str(module_folder / "own" / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = {"JUPYTER_PATH": str(module_folder / "jupyter" / "share" / "jupyter"), "HOME": str(module_folder)}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        "--ServerApp.ip=127.0.0.1",
    ]
    command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={work}"]
    server = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **own, **paths},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert server.stderr is not None
    said: list[str] = []
    port = 0
    async with asyncio.timeout(120):
        while not port:
            line = (await server.stderr.readline()).decode()
            assert line, "".join(said)
            said.append(line)
            _, _, behind = line.partition("http://127.0.0.1:")
            port = int(behind.split("/")[0]) if behind else 0
    reading = asyncio.create_task(server.stderr.read())  # else it would wait for a reader
    yield Lab(f"http://127.0.0.1:{port}", work)
    server.terminate()
    await asyncio.wait_for(server.wait(), 60)
    reading.cancel()


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, lab: Lab) -> AsyncIterator[Page]:
    context = await chromium.new_context()
    context.set_default_timeout(WAIT_MS)
    page = await context.new_page()
    await page.goto(f"{lab.url}/lab/tree/test.ipynb?token={TOKEN}&reset")
    await page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    yield page
    await context.close()


async def test_cells_run_plot_move_widgets_and_are_interrupted_and_kernels_restarted(
    lab: Lab, service: Process, page: Page
) -> None:
    expect.set_options(timeout=WAIT_MS)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    await expect(cells).to_have_count(len(CELLS))
    idle = page.locator("#jp-main-statusbar").get_by_text("Python (Cellyard) | Idle")
    await expect(idle).to_be_visible()

    async def run(number: int) -> None:
        await cells.nth(number).locator(".cm-content").click()
        await page.keyboard.press("Shift+Enter")

    await run(0)
    plot = cells.nth(0).locator(".jp-OutputArea-output img")
    await expect(plot).to_be_visible()
    assert await plot.evaluate("image => image.naturalWidth") > 100
    await expect(cells.nth(0).locator(".jp-InputPrompt").first).to_have_text("[1]:")

    await run(1)
    await expect(cells.nth(1).locator(".jp-OutputArea-output", has_text="42")).to_be_visible()
    await expect(cells.nth(1).get_by_text("untouched", exact=True)).to_be_visible()
    await cells.nth(1).locator(".noUi-handle").focus()
    await page.keyboard.press("ArrowRight")
    await expect(cells.nth(1).get_by_text("moved to 1", exact=True)).to_be_visible()  # by code in the kernel
    await run(2)
    await expect(cells.nth(2).locator(".jp-OutputArea-output", has_text="running")).to_be_visible()
    await expect(cells.nth(2).locator(".jp-InputPrompt").first).to_have_text("[*]:")
    with cellyard.Client(service.endpoint) as client:
        (held,) = [each for each in client.list_sandboxes() if each.notebook_id]
    assert (held.notebook_id or "").startswith("jupyter-")

    await page.get_by_role("button", name="Interrupt the kernel").click()
    await expect(cells.nth(2).locator(".jp-OutputArea-output", has_text="KeyboardInterrupt")).to_be_visible()
    await expect(idle).to_be_visible()

    await page.get_by_role("button", name="Restart the kernel", exact=True).click()
    async with page.expect_response(lambda response: response.url.split("?")[0].endswith("/restart")) as restarted:
        await page.locator(".jp-Dialog .jp-mod-accept").click()
    assert (await restarted.value).ok
    await expect(idle).to_be_visible()
    await run(3)
    await expect(cells.nth(3).locator(".jp-OutputArea-output", has_text="False")).to_be_visible()
    await expect(cells.nth(3).locator(".jp-InputPrompt").first).to_have_text("[1]:")
    with cellyard.Client(service.endpoint) as client:
        (after,) = [each for each in client.list_sandboxes() if each.notebook_id]
    assert after.sandbox_id == held.sandbox_id

    async with page.expect_response(lambda response: response.request.method == "PUT") as saved:
        await page.keyboard.press("Control+s")
    assert (await saved.value).ok
    with cellyard.Session(str(held.notebook_id), endpoint=service.endpoint) as session:
        session.connect()
        assert [cell.source for cell in session.get_cells()] == CELLS
    assert json.loads((lab.folder / "test.ipynb").read_text())["metadata"]["kernelspec"]["name"] == "cellyard-python"
