"""input() and getpass(): asked of the front end that runs the cell, over its stdin channel."""

from __future__ import annotations

import asyncio

from cellyard.jupyter.channels import Channels, Request, log


class Questions:
    """The question that waits, if one does. Belongs to one event loop."""

    def __init__(self) -> None:
        self._asked: Request | None = None
        self._answer: asyncio.Future[str] | None = None
        self.password = False
        """Whether what is typed to the next question must not be shown."""

    async def ask(self, channels: Channels, of: Request, prompt: str) -> str:
        """The line that the front end answers with. It may never come: cancel it."""
        self._asked = of
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answer = answer
        channels.reply(of, "input_request", {"prompt": prompt, "password": self.password}, channel="stdin")
        try:
            return await answer
        finally:
            if self._answer is answer:
                self._asked = self._answer = None

    def answered(self, reply: Request) -> None:
        """Something came on stdin: the answer, or what nobody has asked for."""
        value = reply.content.get("value")
        asked, answer = self._asked, self._answer
        if reply.kind != "input_reply" or asked is None or answer is None or answer.done():
            log.warning("a %s that nobody has asked for is dropped", reply.kind)
        elif list(reply.idents) != list(asked.idents):
            log.warning("an input_reply of another client than was asked is dropped")
        elif not isinstance(value, str):
            log.warning("an input_reply without a line is dropped")
        else:
            answer.set_result(value)
