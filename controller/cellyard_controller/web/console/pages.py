"""The console's files: a page, its scripts and its style, as they stand in the package. No path leads elsewhere."""

from __future__ import annotations

from importlib import resources

from aiohttp import web

from cellyard_controller.web.console.answers import PAGE_POLICY

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Pages:
    """All of them, in memory: they are few and small."""

    def __init__(self) -> None:
        folder = resources.files("cellyard_controller.web") / "static"
        self._files = {
            file.name: (file.read_bytes(), _TYPES[f".{file.name.rpartition('.')[2]}"]) for file in folder.iterdir()
        }

    def page(self, name: str) -> web.Response:
        """One of them. Raises HTTPNotFound."""
        if name not in self._files:
            raise web.HTTPNotFound(text="not found\n")
        content, kind = self._files[name]
        headers = {"Content-Security-Policy": PAGE_POLICY}
        return web.Response(body=content, content_type=kind, charset="utf-8", headers=headers)
