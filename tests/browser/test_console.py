"""The console as people use it: with eyes and mouse, with the keyboard alone, and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from cellyard import AsyncClient
from tests.browser.console import Served, cell, log_in, opened, run, serving

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session")]

PLOT = """
from IPython.display import HTML, JSON, SVG, Latex, Markdown, display
import matplotlib.pyplot as plt
display(Markdown("# A title\\n\\n*text* with a [link](https://example.org/) and <b>no bold</b>"))
display(HTML("<table><tr><th>head<td>framed</table>"))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' width='40' height='20'><rect width='40' height='20'/></svg>"))
display(Latex("$x^2$"))
display(JSON({"a": [1]}))
plt.plot([1, 3, 2])
plt.show()
"""


@pytest.fixture(scope="module")
def served(built_image: str, module_folder: Path) -> Iterator[Served]:
    with serving(module_folder) as served:
        yield served


async def test_logging_in_takes_a_token_and_logging_out_ends_it(chromium: Browser, served: Served) -> None:
    async with opened(chromium) as page:
        await page.goto(served.url)
        await page.get_by_label("Token").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("This token is not known.")).to_be_visible()
        await log_in(page, served)
        assert served.token not in await page.content()
        kept = await page.evaluate(
            "[document.cookie, JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]"
        )
        assert kept[:2] == ["", "{}"]
        assert served.token not in kept[2]
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        await page.reload()
        await expect(page.get_by_label("Token")).to_be_visible()


async def test_a_sandbox_appears_when_somebody_claims_it_and_goes_when_it_ends(
    chromium: Browser, served: Served
) -> None:
    async with opened(chromium) as page:
        await log_in(page, served)
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="watched")).filter(has_text="sb-")
        await expect(page.get_by_role("heading", name="Sandboxes", exact=True)).to_be_visible()
        async with served.session("watched") as session:
            await session.run("1")
            await expect(row).to_contain_text("claimed")
            await expect(row).to_contain_text("1 GiB")
            await session.shutdown_kernel()
        await expect(row).to_have_count(0)
        await expect(page.get_by_text("6 of 6 capabilities proven")).to_be_visible()


async def test_outputs_of_all_kinds_are_shown_each_in_its_way(chromium: Browser, served: Served) -> None:
    async with opened(chromium) as page:
        await log_in(page, served, served.url + "#/notebooks")
        await page.get_by_label("Open or create").fill("kinds & more/<b>")
        await page.keyboard.press("Enter")
        output = await run(page, 1, PLOT)
        await expect(output.get_by_role("heading", name="A title")).to_be_visible()
        await expect(output.get_by_text("with a link and <b>no bold</b>")).to_be_visible()
        link = output.get_by_role("link", name="link")
        assert await link.get_attribute("rel") == "noopener noreferrer"
        await expect(output.frame_locator("iframe").get_by_text("framed")).to_be_visible()
        for kind in ("image/svg+xml", "image/png"):
            image = output.get_by_role("img", name=f"Output: {kind}")
            await expect(image).to_be_visible()
            await page.wait_for_function("image => image.naturalWidth > 0", arg=await image.element_handle())
        await expect(output.get_by_text("$x^2$")).to_be_visible()
        await expect(output.get_by_text('"a": [')).to_be_visible()


async def test_text_is_shown_as_it_comes_and_as_a_terminal_would(chromium: Browser, served: Served) -> None:
    async with opened(chromium) as page, served.session("live") as session:
        await session.run("import sys, pathlib")
        await log_in(page, served, served.address("live"))
        source = "\n".join(
            [
                "print('\\x1b[31mred\\x1b[0m plain')",
                "print('50 %\\r100 %', flush=True)",
                "print('to err', file=sys.stderr)",
                "print('got', input('a line: '))",
                "1/0",
            ]
        )
        text = page.get_by_label("Text of cell 1", exact=True)
        await text.fill(source)
        await text.press("Control+Enter")
        output = page.get_by_role("group", name="Output of cell 1", exact=True)
        await expect(output.locator(".stdout")).to_have_text("red plain\n100 %\n")
        await expect(output.locator(".stdout .fg-1")).to_have_text("red")
        await expect(output.locator(".stderr")).to_have_text("to err\n")
        await expect(page.get_by_label("Kernel")).to_have_text("busy")
        await page.get_by_label("a line: ").fill("<i>Ann</i>")
        await page.keyboard.press("Enter")
        await expect(output.locator(".error")).to_contain_text("ZeroDivisionError")
        await expect(output.locator(".stdout").last).to_contain_text("got <i>Ann</i>")
        await expect(cell(page, 1).locator(".state")).to_contain_text("failed")


async def test_displays_are_updated_and_outputs_cleared_as_in_jupyterlab(chromium: Browser, served: Served) -> None:
    source = "\n".join(
        [
            "from IPython.display import clear_output, display, Markdown",
            "print('gone')",
            "clear_output(wait=True)",
            "shown = display(Markdown('first'), display_id=True)",
            "shown.update(Markdown('second'))",
        ]
    )
    async with opened(chromium) as page, served.session("updates") as session:
        await session.run("0")
        await log_in(page, served, served.address("updates"))
        output = await run(page, 1, source)
        await expect(output).to_have_text("second")


async def test_a_notebook_can_be_worked_in_with_the_keyboard_alone(chromium: Browser, served: Served) -> None:
    async with opened(chromium) as page:
        await log_in(page, served)
        key = page.keyboard.press
        for _ in range(20):
            await key("Tab")
            if await page.evaluate("document.activeElement.textContent") == "Notebooks":
                break
        await key("Enter")
        await expect(page.get_by_role("heading", name="Notebooks")).to_be_visible()
        await page.get_by_label("Open or create").focus()
        await page.keyboard.type("keys")
        await key("Enter")
        await expect(cell(page, 1)).to_be_visible()
        await page.get_by_label("Text of cell 1", exact=True).focus()
        await page.keyboard.type("x = 6")
        await key("Shift+Enter")
        second = page.get_by_label("Text of cell 2", exact=True)
        await expect(second).to_be_focused()
        await page.keyboard.type("x * 7")
        await key("Control+Enter")
        await expect(page.get_by_role("group", name="Output of cell 2", exact=True)).to_have_text("42")
        await key("Escape")
        await expect(cell(page, 2)).to_be_focused()
        await key("ArrowUp")
        await expect(cell(page, 1)).to_be_focused()
        await key("a")
        await expect(page.get_by_label("Text of cell 1", exact=True)).to_be_focused()
        await page.keyboard.type("# said")
        await key("Escape")
        await key("m")
        await expect(
            page.get_by_role("article", name="Markdown cell 1").get_by_role("heading", name="said")
        ).to_be_visible()
        await key("h")
        await expect(page.get_by_role("heading", name="The last executions")).to_be_visible()
        await expect(page.locator("#history tbody tr")).to_have_count(2)
        await key("?")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await key("Escape")
        await expect(page.get_by_role("dialog")).to_be_hidden()


async def test_a_cell_that_does_not_end_is_interrupted_and_the_history_says_so(
    chromium: Browser, served: Served
) -> None:
    async with opened(chromium) as page, served.session("long") as session:
        await session.run("import time")
        await log_in(page, served, served.address("long"))
        text = page.get_by_label("Text of cell 1", exact=True)
        await text.fill("print('begun', flush=True)\nwhile True: time.sleep(0.05)")
        await text.press("Control+Enter")
        await expect(page.get_by_role("group", name="Output of cell 1", exact=True)).to_contain_text("begun")
        await page.get_by_role("button", name="History").click()
        await page.get_by_role("button", name="Interrupt").click()
        await expect(cell(page, 1).locator(".state")).to_contain_text("interrupted")
        newest = page.locator("#history tbody tr").first
        await expect(newest).to_contain_text("interrupted")
        await expect(newest).to_contain_text("print('begun', flush=True)")
        page.once("dialog", lambda dialog: dialog.accept())
        await page.get_by_role("button", name="Restart").click()
        await expect(page.get_by_text("The kernel was restarted")).to_be_visible()
        await expect(page.get_by_label("Kernel")).to_have_text("idle")


async def test_what_others_write_and_run_is_seen_and_what_is_being_written_stays(
    chromium: Browser, served: Served
) -> None:
    async with opened(chromium) as page, served.session("shared") as session:
        await session.run("1")
        await log_in(page, served, served.address("shared"))
        await expect(cell(page, 1)).to_be_visible()
        theirs = await session.create_cell("print('theirs')")
        await expect(page.get_by_label("Text of cell 2", exact=True)).to_have_value("print('theirs')")
        await session.execute_cell(theirs)
        await expect(page.get_by_role("group", name="Output of cell 2", exact=True)).to_have_text("theirs\n")
        mine = page.get_by_label("Text of cell 2", exact=True)
        await mine.fill("print('mine')")
        await session.set_source(theirs, "print('changed')")
        await expect(cell(page, 2).locator(".state")).to_contain_text("changed elsewhere meanwhile")
        await expect(mine).to_have_value("print('mine')")
        await session.delete_cell(theirs)
        await expect(cell(page, 2)).to_have_count(0)


async def test_a_page_that_is_loaded_again_is_where_it_was(chromium: Browser, served: Served) -> None:
    async with opened(chromium, viewport={"width": 900, "height": 400}) as page, served.session("place") as session:
        for number in range(12):
            await session.create_cell(f"{number}\n\n\n")
        await log_in(page, served, served.address("place"))
        await cell(page, 9).focus()
        before = await page.evaluate("scrollY")
        assert before > 0
        await page.reload()
        await expect(cell(page, 9)).to_be_focused()
        await page.wait_for_function("before => Math.abs(scrollY - before) < 50", arg=before)


async def test_on_a_phone_nothing_is_wider_than_the_screen(chromium: Browser, served: Served) -> None:
    table = f"|a|b|\\n|-|-|\\n|{'long ' * 9}|{'y' * 200}|"
    wide = f"print('x' * 500)\nfrom IPython.display import Markdown\nMarkdown('{table}')"
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    async with opened(chromium, **phone) as page, served.session("phone") as session:
        await session.run("1")
        await log_in(page, served)
        for address in (served.url, served.url + "#/notebooks", served.address("phone")):
            await page.goto(address)
            await expect(page.get_by_role("link", name="phone").or_(cell(page, 1)).first).to_be_visible()
            await not_too_wide(page)
        await run(page, 1, wide)
        await page.get_by_role("button", name="History").tap()
        await expect(page.locator("#history tbody tr").first).to_be_visible()
        await not_too_wide(page)


async def not_too_wide(page: Page) -> None:
    width, screen = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= screen


async def test_everything_that_can_be_used_has_a_name_and_can_be_reached(chromium: Browser, served: Served) -> None:
    async with opened(chromium) as page, served.session("names") as session:
        await session.run("print(1)")
        await log_in(page, served)
        for address in (served.url, served.url + "#/notebooks", served.address("names")):
            await page.goto(address)
            await expect(page.get_by_role("link", name="names").or_(cell(page, 1)).first).to_be_visible()
            assert await page.evaluate(NAMELESS) == []
            assert await page.evaluate("document.documentElement.lang") == "en"
            assert await page.locator("main").count() == 1
            ids = await page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
            assert len(ids) == len(set(ids))
        assert re.match("polite", await page.locator("#status").get_attribute("aria-live") or "")


NAMELESS = """() => [...document.querySelectorAll('a, button, input, select, textarea, img, iframe, [role=group], pre')]
  .filter((each) => each.checkVisibility())
  .filter((each) => !(each.textContent.trim() || each.getAttribute('aria-label') || each.title || each.alt
    || [...(each.labels || [])].some((label) => label.textContent.trim())))
  .map((each) => each.outerHTML)"""


async def test_another_tenant_sees_their_own_alone(chromium: Browser, served: Served) -> None:
    async with AsyncClient(endpoint=served.process.endpoint) as client:
        token = (await client.create_tenant("alice")).token
    async with opened(chromium) as page, served.session("operators") as session:
        await session.run("'secret'")
        await log_in(page, served, served.address("operators"), token)
        await expect(page.get_by_text("notebook 'operators' not found")).to_be_visible()
        await expect(page.get_by_text("This notebook is not there")).to_be_visible()
        await page.goto(served.url + "#/notebooks")
        await expect(page.get_by_text("There are no notebooks yet.")).to_be_visible()
        await page.goto(served.url + "#/")
        await expect(page.get_by_role("heading", name="Sandboxes", exact=True)).to_be_visible()
        await expect(page.get_by_role("heading", name="Pools of warm sandboxes")).to_be_hidden()
        assert "operators" not in await page.locator("main").inner_text()
