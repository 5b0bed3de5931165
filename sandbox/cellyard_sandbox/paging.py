"""A pager for notebooks: what `name?` and its like page is an output of the cell, or comes with its end where somebody
wants that. Runs in the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def shows(shell: Any) -> Callable[..., None]:
    """A pager of IPython's shell. Jupyter's own hands the text to a front end, and without one it is lost."""

    def page(text: str | dict[str, Any], start: int = 0, screen_lines: int = 0, pager_cmd: Any = None) -> None:
        data = text if isinstance(text, dict) else {"text/plain": text}
        if shell.get_parent().get("content", {}).get("payload") is True:
            shell.payload_manager.write_payload({"source": "page", "data": data, "start": start})
            return
        if isinstance(data.get("text/plain"), str) and start > 0:
            data = {**data, "text/plain": "\n".join(data["text/plain"].split("\n")[start:])}
        shell.display_pub.publish(data)

    return page
