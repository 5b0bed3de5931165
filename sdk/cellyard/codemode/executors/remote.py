"""Code in a sandbox of a controller, and containers as the sandboxes that are meant."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cellyard import events
from cellyard._async.session import AsyncSession
from cellyard.codemode.errors import ArtifactDataError
from cellyard.codemode.executors.protocol import NOTHING, ExecutorConfig, Host, Needs
from cellyard.codemode.results import ExecutionResult
from cellyard.errors import CapabilityUnavailable, NotConnected
from cellyard_proto.codemode import artifacts, names, requirements
from cellyard_proto.codemode.namespaces import INLINE, is_inline


@dataclass(frozen=True)
class ContainerConfig(ExecutorConfig):
    """Of a ContainerExecutor."""

    template: str | None = None
    """One that the controller's operator has defined; None for the default."""
    network: str | None = None
    """ "none", "allowlist" or "open"; None for the template's."""


class RemoteExecutor:
    """Code in a notebook of its own. The kernel ends with the session; what ran can still be read, as of any."""

    backend: str
    runtime: str
    capability: str

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self._session: AsyncSession | None = None
        self._host: Host | None = None
        self._capabilities: frozenset[str] = frozenset()
        self._execution_id = ""

    @property
    def config(self) -> ExecutorConfig:
        """The settings."""
        return self._config

    async def start(self, host: Host, needs: Needs = NOTHING) -> None:
        """See Executor."""
        session = AsyncSession(
            f"code-mode-{uuid.uuid4()}",
            endpoint=needs.endpoint,
            token=needs.token,
            tls=needs.tls,
            runtime=self.runtime,
            require={*needs.require, self.capability},
            **self._kernel(needs),
        )
        try:
            await session.start_kernel()
            self._capabilities = frozenset(await session.supported_capabilities())
        except CapabilityUnavailable as missing:
            await session.close()
            message = ". ".join(filter(None, [missing.message.rstrip("."), self._instead]))
            raise CapabilityUnavailable(message, details=missing.details) from None
        except BaseException:
            await session.close()
            raise
        self._session, self._host = session, host

    async def run(self, code: str, timeout: float | None) -> ExecutionResult:
        """See Executor."""
        session = self._started()
        functions = {function: partial(self._serve, function) for function in names.FUNCTIONS}
        stream = session.stream_execute(code=code, timeout_secs=timeout, on_cancel="interrupt", host_calls=functions)
        async with aclosing(stream) as happening:  # type: ignore[type-var]
            async for event in happening:
                if isinstance(event, events.Started):
                    self._execution_id = event.execution_id
                elif isinstance(event, events.Finished):
                    return ExecutionResult.from_result(
                        event.result, timeout=timeout, backend_info={"backend": self.backend}
                    )
        raise AssertionError("a stream of events ends with Finished")

    async def reset(self) -> None:
        """See Executor."""
        await self._started().restart_kernel()

    async def close(self) -> None:
        """See Executor."""
        session, self._session = self._session, None
        self._capabilities = frozenset()
        if session is not None:
            await session.close()

    async def install(self, requirements_: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor."""
        done = await self._started().install(*requirements_)
        there = {requirements.package(each) for each in done.already_present}
        installed = [each for each in requirements_ if requirements.package(each) not in there]
        return installed, [each for each in requirements_ if requirements.package(each) in there]

    async def uninstall(self, packages: Sequence[str]) -> tuple[list[str], list[str]]:
        """See Executor."""
        done = await self._started().uninstall(*packages)
        return [package.name for package in done.removed], list(done.not_found)

    def capabilities(self) -> frozenset[str]:
        """See Executor."""
        return self._capabilities

    _instead = ""

    def _kernel(self, needs: Needs) -> dict[str, Any]:
        raise NotImplementedError

    def _started(self) -> AsyncSession:
        if self._session is None:
            raise NotConnected("the executor is not started")
        return self._session

    # Calls of the code

    async def _serve(self, function: str, operation: str, **arguments: Any) -> Any:
        assert self._host is not None
        if function == names.ARTIFACTS and operation == "save" and "file" in arguments:
            return await self._save_file(**arguments)
        if function == names.ARTIFACTS and operation == "load" and "into" in arguments:
            return await self._load_file(**arguments)
        return await self._host.call(
            function,
            operation,
            arguments,
            notebook_id=self._started().notebook_id,
            execution_id=self._execution_id,
        )

    async def _save_file(self, name: str, file: Any, description: str = "", metadata: Any = None) -> Any:
        """Its content lies in the sandbox's home."""
        assert self._host is not None
        if not isinstance(file, dict) or not isinstance(file.get("path"), str):
            raise ArtifactDataError("file is a path and a type")
        with tempfile.TemporaryDirectory(prefix="cellyard-") as folder:
            local = Path(folder, "content")
            await self._started().download(file["path"], local)
            return await self._host.save_file(local, name, str(file.get("type")), description, metadata)

    async def _load_file(self, name: str, into: str) -> Any:
        """Its content goes into the sandbox's home, where it is large."""
        assert self._host is not None
        with tempfile.TemporaryDirectory(prefix="cellyard-") as folder:
            local = Path(folder, "content")
            type_, size = await self._host.load_file(name, local)
            if size <= INLINE:
                data = artifacts.decode(type_, await asyncio.to_thread(local.read_bytes))
                if is_inline(type_, data, size):
                    return {"type": type_, "data": data}
            await self._started().upload(local, into)
            return {"type": type_, "file": into}


class ContainerExecutor(RemoteExecutor):
    """Code in a container. Where there is none, its start raises CapabilityUnavailable: it never makes do with less."""

    backend = "container"
    runtime = "docker"
    capability = "container_isolation"
    _instead = (
        'Code that is trusted can do with less, by your choice: Session.from_base(..., runtime="process") or '
        "Session.subprocess(...) is a process without isolation."
    )

    def __init__(self, config: ContainerConfig | None = None) -> None:
        super().__init__(config or ContainerConfig())

    def _kernel(self, needs: Needs) -> dict[str, Any]:
        config = self._config
        assert isinstance(config, ContainerConfig)
        return {
            "template": needs.template or config.template,
            "network": needs.network or config.network,
        }
