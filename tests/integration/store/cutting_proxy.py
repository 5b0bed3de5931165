"""A way to a PostgreSQL server that breaks where a test wants it to: around the message that commits."""

from __future__ import annotations

import asyncio
from typing import Literal

Cut = Literal["before", "after", "late"]
"""What becomes of the next commit's message, whose connection ends: never sent, sent and the answer dropped, or sent
when its client has long been told that the connection is gone."""


class CuttingProxy:
    """Passes everything on, until `cut` is set."""

    def __init__(self, port: int) -> None:
        """`port`: the server's, on the loopback interface."""
        self._server_port = port
        self.cut: Cut | None = None
        self.seen = asyncio.Event()
        """A commit was cut."""
        self.release = asyncio.Event()
        """A late message may go on its way."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CuttingProxy:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        answers, requests = await asyncio.open_connection("127.0.0.1", self._server_port)
        back = asyncio.create_task(_pass(answers, writer))
        self._tasks.add(back)
        try:
            while content := await reader.read(65536):
                cut, self.cut = (self.cut, None) if self.cut and b"COMMIT" in content else (None, self.cut)
                if cut is None:
                    requests.write(content)
                    continue
                back.cancel()
                if cut == "after":
                    requests.write(content)
                    await answers.read(65536)  # it is stored when it answers; nobody hears it
                writer.close()
                self.seen.set()
                if cut == "late":
                    await self.release.wait()
                    requests.write(content)
                    await answers.read()  # to its end
                break
        finally:
            back.cancel()
            writer.close()
            requests.close()


async def _pass(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await answers.read(65536):
        writer.write(content)
    writer.close()
