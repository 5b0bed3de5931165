"""The agent's end of the link: it dials, says Hello, sends what is not committed, and dials again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from cellyard_proto import framing
from cellyard_proto.v1 import link_pb2, outputs_pb2
from cellyard_sandbox.outbox import Outbox
from cellyard_sandbox.stream import FrameStream

BATCH_DELAY_S = 0.010
"""Events wait this long for others to travel with."""

LINK_GRACE_S = 600.0
"""Until a controller says otherwise."""

_FIRST_RETRY_S = 0.02
_LAST_RETRY_S = 0.25
_WELCOME_TIMEOUT_S = 10.0
_MAX_ANSWERS = 10_000  # unread ones; a controller that asks so much without reading is not well
_MAX_COMM_BYTES = 8 * 1024 * 1024  # of comms that belong to no execution, unread by the controller

log = logging.getLogger("cellyard.agent")


class LinkLost(Exception):
    """No controller has been there for as long as the agent may wait for one."""


class Link:
    """The one connection at a time. Belongs to the event loop's thread."""

    def __init__(
        self,
        path: str,
        outbox: Outbox,
        hello: Callable[[], link_pb2.Hello],
        on_welcome: Callable[[link_pb2.Welcome], None],
        on_message: Callable[[link_pb2.ToAgent], None],
        beside: Callable[[], link_pb2.FromAgent | None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_message` gets everything but the Welcome, and only after it.

        `beside` is asked for what to send in turn with events, `on_lost` is called when a connection has ended.
        """
        self._path = path
        self._outbox = outbox
        self._hello = hello
        self._on_welcome = on_welcome
        self._on_message = on_message
        self._beside, self._on_lost = beside, on_lost
        self._beside_next = False
        self._loop = asyncio.get_running_loop()
        self._stream: FrameStream | None = None
        self._over: asyncio.Future[str] | None = None
        self._welcomed = False
        self._answers: deque[link_pb2.FromAgent] = deque()
        self._told: deque[tuple[int, link_pb2.FromAgent]] = deque()  # each after the event of this number
        self._comm_bytes = 0  # of comms' messages among them
        self._batch_timer: asyncio.TimerHandle | None = None
        self._batch_due = False
        self._pumping = False
        self._grace_s = LINK_GRACE_S

    async def run(self) -> None:
        """Keeps the link up for as long as it can. Raises LinkLost."""
        alone_since = self._loop.time()
        retry_s = _FIRST_RETRY_S
        while True:
            connected = self._connect()
            if connected is not None:
                reason = await self._serve(connected)
                log.info("link lost: %s", reason)
                if self._welcomed:
                    alone_since, retry_s = self._loop.time(), _FIRST_RETRY_S
            if self._loop.time() - alone_since >= self._grace_s:
                raise LinkLost(f"no controller at {self._path} for {self._grace_s:g} s")
            await asyncio.sleep(min(retry_s, max(0.0, alone_since + self._grace_s - self._loop.time())))
            retry_s = min(retry_s * 2, _LAST_RETRY_S)

    def answer(self, message: link_pb2.FromAgent) -> None:
        """Sends an answer ahead of all events. It is lost with the connection, and so is the question."""
        self._answers.append(message)
        if len(self._answers) > _MAX_ANSWERS and self._over is not None and not self._over.done():
            self._over.set_result("the controller does not read")
        self._pump()

    def tell(self, status: link_pb2.KernelStatus) -> None:
        """Sends the kernel's state after every event that there is now. A new Hello has it too."""
        self._told.append((self._outbox.seal(), link_pb2.FromAgent(kernel=status)))
        self._pump()

    def pass_on(self, comm: outputs_pb2.Comm) -> None:
        """Sends a comm's message after every event that there is now, unless the controller is away or too slow."""
        size = comm.ByteSize()
        if not self._welcomed or self._stream is None or self._comm_bytes + size > _MAX_COMM_BYTES:
            log.warning("a message of the comm %.80r, which belongs to no execution, is lost", comm.comm_id)
            return
        self._comm_bytes += size
        self._told.append((self._outbox.seal(), link_pb2.FromAgent(comm=comm)))
        self._pump()

    def beside_changed(self) -> None:
        """To be called whenever `beside` may have something that it had not."""
        self._pump()

    def outbox_changed(self) -> None:
        """To be called whenever something came into the outbox, or was sealed there."""
        if self._outbox.batch_ready:
            self._outbox.seal()
        if self._outbox.unsent:
            self._pump()
        if self._outbox.staged and self._batch_timer is None:
            self._batch_timer = self._loop.call_later(BATCH_DELAY_S, self._send_batch)

    def _send_batch(self) -> None:
        self._batch_timer = None
        self._batch_due = True
        self._pump()

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return None  # nobody listens yet, or again
        return connection

    async def _serve(self, connected: socket.socket) -> str:
        over: asyncio.Future[str] = self._loop.create_future()
        self._over = over
        self._welcomed = False
        self._answers.clear()
        self._told.clear()
        self._comm_bytes = 0

        def end(reason: str) -> None:
            if not over.done():
                over.set_result(reason)

        stream = self._stream = FrameStream(connected, self._receive, self._pump, end)
        patience = self._loop.call_later(_WELCOME_TIMEOUT_S, lambda: None if self._welcomed else end("no Welcome came"))
        try:
            stream.write(framing.encode(link_pb2.FromAgent(hello=self._hello())))
            return await over
        finally:
            patience.cancel()
            stream.close()
            self._stream = self._over = None
            self._on_lost()

    def _receive(self, message: link_pb2.ToAgent) -> None:
        if self._welcomed:
            self._on_message(message)
        elif message.HasField("welcome"):
            self._welcomed = True
            if message.welcome.link_grace_s > 0:
                self._grace_s = message.welcome.link_grace_s
            self._outbox.rewind(message.welcome.committed_number)
            self._on_welcome(message.welcome)
            self._pump()
        else:
            log.warning("%s came before the Welcome", message.WhichOneof("message"))

    def _pump(self) -> None:
        """Sends what there is, as far as the connection takes it."""
        if self._pumping:
            return  # sealing, below, has brought us here again
        self._pumping = True
        try:
            while self._welcomed and self._stream is not None and self._stream.writable:
                message = self._next_message()
                if message is None:
                    return
                self._stream.write(framing.encode(message))
        finally:
            self._pumping = False

    def _next_message(self) -> link_pb2.FromAgent | None:
        if self._answers:
            return self._answers.popleft()
        if self._told and self._told[0][0] <= self._outbox.sent_number:
            message = self._told.popleft()[1]
            self._comm_bytes -= message.comm.ByteSize() if message.HasField("comm") else 0
            return message
        if self._batch_due and not self._outbox.unsent:
            # What came while the connection was slow travels together: only now does it get its numbers.
            self._batch_due = False
            self._outbox.seal()
        # Events and what goes on beside them take turns: neither holds the other up.
        self._beside_next = not self._beside_next
        return self._beside() or self._batch() if self._beside_next else self._batch() or self._beside()

    def _batch(self) -> link_pb2.FromAgent | None:
        batch = self._outbox.next_batch()
        return link_pb2.FromAgent(batch=batch) if batch is not None else None
