"""Markdown as HTML without HTML in it: what stands there as HTML is shown as text. LaTeX stays text."""

from __future__ import annotations

import asyncio

from markdown_it import MarkdownIt

MAX_MARKDOWN = 64 * 1024
"""Characters; a longer text is shown as it is."""
_AT_A_TIME = 2


class Markdown:
    """Renders beside everything else, a few texts at a time."""

    def __init__(self) -> None:
        self._rendering = asyncio.Semaphore(_AT_A_TIME)
        self._markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": 20}).enable(["table", "strikethrough"])

    async def html(self, text: str) -> str:
        """A text as HTML. Images are left out unless they are part of the text (data:)."""
        async with self._rendering:
            return await asyncio.to_thread(self._markdown.render, text[:MAX_MARKDOWN])
