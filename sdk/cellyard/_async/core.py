"""What every part of a session stands on: its id, its settings, its connection."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from cellyard import _requests, endpoint
from cellyard._async.transport import AsyncTransport
from cellyard._markers import property_when_sync
from cellyard.errors import CellyardError, NotConnected
from cellyard.results import Progress
from cellyard_proto.v1 import kernels_pb2, notebooks_pb2, sessions_pb2

if TYPE_CHECKING:
    from cellyard._async.document import AsyncDocument

CLOSE_TIMEOUT_S = 30.0


class AsyncSessionCore:
    """A session's identity and connection."""

    def __init__(
        self,
        notebook_id: str | None = None,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        tls: bool | endpoint.TLS = False,
        runtime: str | None = None,
        template: str | None = None,
        python_version: str | None = None,
        network: str | None = None,
        require: Collection[str] = (),
        env: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        start_timeout: float | None = None,
        idle_timeout: float | None = None,
        ttl: float | None = None,
        labels: Mapping[str, str] | None = None,
        on_progress: Callable[[Progress], Any] | None = None,
    ) -> None:
        self._notebook_id = f"agent-session-{uuid.uuid4()}" if notebook_id is None else notebook_id
        self._asked: dict[str, object] = {
            "runtime": runtime,
            "template": template,
            "python_version": python_version,
            "network": network,
            "require": require,
            "env": env,
            "files": files,
            "start_timeout": start_timeout,
            "idle_timeout": idle_timeout,
            "ttl": ttl,
        }
        self._labels = labels
        self._on_progress = on_progress
        self._presence = sessions_pb2.AttachSession()
        self._closed = False
        self._documents: weakref.WeakSet[AsyncDocument] = weakref.WeakSet()
        self._settings: kernels_pb2.KernelSettings | None = None
        # Type and environment that start_kernel was asked for; kernels started later are the same.
        self._kernel_choice = kernels_pb2.KernelSettings()
        self._kernel_seen = False
        self._transport = AsyncTransport(lambda: _resolve(endpoint, token, tls), self._presence)

    @property
    def notebook_id(self) -> str:
        """The notebook's id. Sessions of the same id share one document and one kernel."""
        return self._notebook_id

    @property
    def _session_id(self) -> str:
        """Empty while not connected."""
        return self._presence.session_id

    @property_when_sync
    async def is_connected(self) -> bool:
        """Whether the controller answers on this session's connection now."""
        return await self._transport.reachable()

    async def connect(self) -> None:
        """Connects to the controller; on a connected session it does nothing. Starts no kernel.

        Without an endpoint the user's own controller is meant, and started where it does not run. A session that
        was closed can connect again.

        Raises ControllerUnavailable where nobody answers, Unauthenticated for a token that is not in force,
        InvalidRequest for settings that cannot be. The session's labels are added to the notebook's.
        """
        if self._settings is None:
            self._presence.notebook_id = _requests.named("notebook_id", self._notebook_id)
            self._settings = _requests.settings(**self._asked)
            self._labels = _requests.labels(self._labels)
        if not self._presence.session_id:
            self._presence.session_id = str(uuid.uuid4())
        await self._transport.connect()
        self._closed = False
        if self._labels:
            asked = notebooks_pb2.SetLabelsRequest(
                notebook_id=self._notebook_id, request_id=_requests.request_id(), labels=self._labels
            )
            await self._transport.call(lambda s: s.notebooks.SetLabels, asked)
            self._labels = None  # once: who connects again does not undo what was changed since

    async def close(self) -> None:
        """Leaves the notebook, as the end of `with` does; twice is fine, and errors are swallowed.

        The kernel is shut down when this session used it and no other session that used it is still there. The
        document stays. Where nothing was ever called, nothing is done.
        """
        self._closed = True
        self._kernel_seen = False
        for document in list(self._documents):
            try:
                await document.close()
            except CellyardError:
                pass  # swallowed, as all errors of leaving are; its own close() tells
        if self._transport.is_open:
            goodbye = sessions_pb2.CloseSession(notebook_id=self._notebook_id, session_id=self._session_id)
            try:
                await self._transport.attempt(lambda s: s.sessions.Close, goodbye, timeout=CLOSE_TIMEOUT_S)
            finally:
                await self._transport.close()
        self._presence.session_id = ""  # whoever connects again is another session
        self._presence.used_kernel = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        status = "disconnected"
        if self._transport.is_open:
            status = "kernel_running" if self._kernel_seen else "connected"
        return f"{type(self).__name__}(id={self._notebook_id}, status={status})"

    async def _connected(self) -> None:
        """For calls that connect by themselves: all but after close()."""
        if self._closed:
            raise NotConnected("not connected: the session is closed; connect() opens it again")
        if not self._transport.is_open:
            await self.connect()

    def _need_connection(self) -> None:
        """For calls that do not."""
        if not self._transport.is_open:
            state = "the session is closed" if self._closed else "call connect() first"
            raise NotConnected(f"not connected: {state}")

    def _kernel_settings(self) -> kernels_pb2.KernelSettings:
        """What to start where no kernel runs. Complete only once connected."""
        settings = kernels_pb2.KernelSettings()
        settings.CopyFrom(self._settings or kernels_pb2.KernelSettings())
        settings.MergeFrom(self._kernel_choice)
        return settings


def _resolve(
    name: str | None, token: str | None, tls: bool | endpoint.TLS, environ: Mapping[str, str] = os.environ
) -> endpoint.Endpoint:
    return endpoint.resolve(name, token, tls, environ)
