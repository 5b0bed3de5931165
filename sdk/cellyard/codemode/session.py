"""Code mode's session: agents' code with tools, workflows, artifacts and packages."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from cellyard import _requests
from cellyard.codemode import deps as packages
from cellyard.codemode.errors import SessionClosed
from cellyard.codemode.executors.inprocess import InProcessConfig, InProcessExecutor
from cellyard.codemode.executors.protocol import Executor
from cellyard.codemode.executors.remote import ContainerConfig, ContainerExecutor
from cellyard.codemode.executors.subprocess import SubprocessConfig, SubprocessExecutor
from cellyard.codemode.results import ExecutionResult
from cellyard.codemode.serving import Serving
from cellyard.codemode.storage.file import FileStorage
from cellyard.codemode.storage.protocols import StorageBackend
from cellyard.codemode.tools import ToolSet, read_folder
from cellyard.codemode.wishes import Wishes, checked
from cellyard.errors import CapabilityUnavailable, CellyardError


class Session:
    """Runs agents' code, with the namespaces `tools`, `workflows`, `artifacts` and `deps` among its globals.

        async with Session.from_base("./.code-mode") as session:
            result = await session.run("tools.curl.get(url='http://localhost:8000/')")

    `storage` keeps what outlives the session; `executor` says where the code runs, in this very process where none
    is given: `from_base` has a container. Tools run here, with this program's rights, whatever the code may do.

    `endpoint`, `token` and `tls` say where the controller is, as for AsyncSession. `require` names capabilities
    without which the session does not start. `network` and `template` are those of the sandbox. `on_tool_call` is
    asked before each call of a tool, and may change or refuse it (see ToolCall).

    Use it from one event loop. Calls to a session that is not started start it; calls to one that was closed raise
    SessionClosed, but `run`, whose result says so.
    """

    def __init__(
        self,
        storage: StorageBackend,
        executor: Executor | None = None,
        sync_deps_on_start: bool = False,
        **wishes: Unpack[Wishes],
    ) -> None:
        if not isinstance(storage, StorageBackend):
            raise TypeError(f"storage must be a FileStorage, RedisStorage or ControllerStorage, not {storage!r:.60}")
        if isinstance(executor, str):
            raise TypeError(
                "String-based executor selection is no longer supported: give an executor, e.g. ContainerExecutor()"
            )
        if executor is not None and not isinstance(executor, Executor):
            raise TypeError(f"executor must be an Executor instance or None, got {type(executor).__name__}")
        self._storage = storage
        self._executor: Executor = InProcessExecutor() if executor is None else executor
        self._needs, self._on_tool_call = checked(wishes)
        self._sync_deps_on_start = sync_deps_on_start
        config = self._executor.config
        self._timeout = _requests.seconds("timeout", config.timeout)
        self._given = packages.configured(config, (), ())
        self._tools_path = None if config.tools_path is None else Path(config.tools_path).expanduser()
        self._owns_storage = False
        self._serving: Serving | None = None
        self._closed = False
        self._starting = asyncio.Lock()
        self._running = asyncio.Lock()

    @classmethod
    def from_base(
        cls,
        base: str | os.PathLike[str] | None = None,
        *,
        timeout: float | None = 30.0,
        extra_deps: tuple[str, ...] | None = None,
        allow_runtime_deps: bool = True,
        sync_deps_on_start: bool = False,
        base_path: str | os.PathLike[str] | None = None,
        runtime: str = "docker",
        **wishes: Unpack[Wishes],
    ) -> Session:
        """A session on a folder: `tools/` (YAML), `workflows/` (Python), `artifacts/`, `requirements.txt`.

        The code runs in a container; where none can be had, the start raises CapabilityUnavailable. With
        `runtime="process"` it runs in a process without isolation, with "inprocess" in this one.

        `timeout`: seconds for a run, None for no limit. `extra_deps`: packages besides those of requirements.txt.
        `sync_deps_on_start`: install those when the session starts. `base_path`: another name for `base`.
        """
        config: Mapping[str, Any] = {
            "timeout": timeout,
            "deps": extra_deps,
            "deps_file": _requirements(_base(base, base_path)),
            "allow_runtime_deps": allow_runtime_deps,
        }
        executors: dict[str, Any] = {
            "docker": lambda: ContainerExecutor(ContainerConfig(**config)),
            "process": lambda: SubprocessExecutor(SubprocessConfig(**config)),
            "inprocess": lambda: InProcessExecutor(InProcessConfig(**config)),
        }
        chosen = _requests.one_of("runtime", runtime, tuple(executors))
        return cls._on_base(
            _base(base, base_path),
            executors[chosen](),
            sync_deps_on_start,
            **wishes,
        )

    @classmethod
    def subprocess(
        cls,
        base_path: str | os.PathLike[str],
        *,
        timeout: float | None = 60.0,
        extra_deps: tuple[str, ...] | None = None,
        allow_runtime_deps: bool = True,
        sync_deps_on_start: bool = False,
        python_version: str | None = None,
        cache_venv: bool = True,
        **wishes: Unpack[Wishes],
    ) -> Session:
        """As `from_base`, in a process of the controller's user: for code that is trusted.

        `python_version`: like "3.11"; one that is not installed is EnvironmentFailed at the start. `cache_venv`:
        packages that are configured come from an environment that is kept; False: they are installed anew.
        """
        config = SubprocessConfig(
            timeout=timeout,
            deps=extra_deps,
            deps_file=_requirements(_base(base_path)),
            allow_runtime_deps=allow_runtime_deps,
            python_version=python_version,
            cache_venv=cache_venv,
        )
        return cls._on_base(
            _base(base_path),
            SubprocessExecutor(config),
            sync_deps_on_start,
            **wishes,
        )

    @classmethod
    def inprocess(
        cls,
        base_path: str | os.PathLike[str],
        *,
        timeout: float | None = 30.0,
        extra_deps: tuple[str, ...] | None = None,
        allow_runtime_deps: bool = True,
        sync_deps_on_start: bool = False,
        **wishes: Unpack[Wishes],
    ) -> Session:
        """As `from_base`, in this very process, without a controller and without any isolation.

        Packages that are added can be imported in the whole process. A blocking call cannot be cut at its timeout:
        its thread is left to end by itself.
        """
        config = InProcessConfig(
            timeout=timeout,
            deps=extra_deps,
            deps_file=_requirements(_base(base_path)),
            allow_runtime_deps=allow_runtime_deps,
        )
        return cls._on_base(
            _base(base_path),
            InProcessExecutor(config),
            sync_deps_on_start,
            **wishes,
        )

    @classmethod
    def _on_base(cls, base: Path, executor: Executor, sync_deps_on_start: bool, **wishes: Unpack[Wishes]) -> Session:
        session = cls(FileStorage(base), executor, sync_deps_on_start, **wishes)
        session._owns_storage = True
        (base / "tools").mkdir(parents=True, exist_ok=True)
        return session

    @property
    def storage(self) -> StorageBackend:
        """What keeps workflows, artifacts, tools and added packages."""
        return self._storage

    # Life

    async def start(self) -> None:
        """Starts what the code runs in; a started session stays as it is.

        Raises CapabilityUnavailable where what is required cannot be had, SessionClosed, and what the executor's
        controller raises.
        """
        await self._started()

    async def close(self) -> None:
        """Ends it, with all that it has started; it cannot be started again. Again without effect."""
        self._closed = True
        async with self._starting:
            serving, self._serving = self._serving, None
            if serving is not None:
                await self._end(serving.tools)
        if self._owns_storage:
            await asyncio.to_thread(self._storage.close)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def reset(self) -> None:
        """Forgets all variables, functions and imports of the code; the namespaces are there again.

        What is stored, and what was installed, stays. On a session that is not started it does nothing.
        """
        self._need_open()
        if self._serving is not None:
            async with self._running:
                await self._executor.reset()

    # Code

    async def run(self, code: str, timeout: float | None = None) -> ExecutionResult:
        """Runs Python code; `timeout` in seconds, None for the session's own.

        What the code does is in the result, never raised: its exception, its SystemExit, its timeout, after which it
        has been stopped. Calls at the same time are run one after the other. Raises InvalidRequest for arguments
        that cannot be, ControllerUnavailable, and what `start` raises.
        """
        _requests.text("code", code)
        limit = self._timeout if timeout is None else _requests.seconds("timeout", timeout)
        if self._closed:
            return ExecutionResult.refused("Session is closed")
        async with self._running:
            try:
                await self._started()
            except SessionClosed:
                return ExecutionResult.refused("Session is closed")
            try:
                return await self._executor.run(code, limit)
            except CellyardError:
                if not self._closed:
                    raise
                return ExecutionResult.refused("Session is closed")

    def supports(self, capability: str) -> bool:
        """Whether this has been proven of where the code runs; False before the start and after the end."""
        return capability in self.supported_capabilities()

    def supported_capabilities(self) -> set[str]:
        """All that has been proven of where the code runs; nothing before the start and after the end."""
        return set() if self._serving is None else set(self._executor.capabilities())

    # Tools

    async def list_tools(self) -> list[dict[str, Any]]:
        """All tools: name, description, tags, and callables with their parameters."""
        return await (await self._started()).tools.list()

    async def search_tools(self, query: str, limit: int = 10) -> list[dict[str, Any]]:
        """Tools that fit the query, best first, at most `limit`."""
        return await (await self._started()).search_tools(query, limit)

    # Workflows

    async def list_workflows(self) -> list[dict[str, Any]]:
        """All workflows: name, description, parameters."""
        return await self._stored().list_workflows()

    async def search_workflows(self, query: str, limit: int = 5) -> list[dict[str, Any]]:
        """Workflows that fit the query, best first, at most `limit`."""
        return await self._stored().search_workflows(query, limit)

    async def get_workflow(self, name: str) -> dict[str, Any] | None:
        """A workflow with its source, None where there is none."""
        return await self._stored().get_workflow(name)

    async def add_workflow(self, name: str, source: str, description: str) -> dict[str, Any]:
        """Keeps a workflow, in place of one of the same name; returns it with its source.

        `source` defines `def run(...)` or `async def run(...)`; it is parsed, and not executed. Raises
        WorkflowValidationError.
        """
        return await self._stored().add_workflow(name, source, description)

    async def remove_workflow(self, name: str) -> bool:
        """Removes a workflow; False where there is none. Raises WorkflowValidationError for what can be no name."""
        return await self._stored().remove_workflow(name)

    # Artifacts

    async def list_artifacts(self) -> list[dict[str, Any]]:
        """All artifacts: name, path, description, metadata, created_at (ISO 8601, UTC)."""
        return await self._stored().list_artifacts()

    async def save_artifact(
        self, name: str, data: Any, description: str = "", metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Keeps a value, in place of one of the same name: bytes, str, and what JSON holds. Returns what
        `list_artifacts` tells of it.

        Raises ArtifactNameError, and ArtifactDataError for what would not come back the same.
        """
        return await self._stored().save_artifact(name, data, description, metadata)

    async def load_artifact(self, name: str) -> Any:
        """A kept value. Raises ArtifactNotFoundError, ArtifactNameError."""
        return await self._stored().load_artifact(name)

    async def delete_artifact(self, name: str) -> None:
        """Removes a kept value, where there is one. Raises ArtifactNameError."""
        await self._stored().delete_artifact(name)

    # Packages

    async def list_deps(self) -> list[str]:
        """The packages that are configured, sorted."""
        return await (await self._started()).deps.list()

    async def add_dep(self, package: str) -> dict[str, Any]:
        """Installs a package, at once importable, and keeps it configured for sessions to come.

        Returns `installed`, `already_present` and `failed`; what failed is not kept. Raises DependencyError for
        what is no name with extras and versions, RuntimeDepsDisabledError.
        """
        return await (await self._started()).deps.add(package)

    async def remove_dep(self, package: str) -> dict[str, Any]:
        """Uninstalls a package and configures it no more.

        Returns `removed`, `not_found`, `failed` and `removed_from_config`. What requirements.txt lists is there
        again in the next session. Raises DependencyError, RuntimeDepsDisabledError.
        """
        return await (await self._started()).deps.remove(package)

    async def sync_deps(self) -> dict[str, Any]:
        """Installs all packages that are configured: `installed`, `already_present`, `failed`."""
        return await (await self._started()).deps.sync()

    # Inside

    def _need_open(self) -> None:
        if self._closed:
            raise SessionClosed("Session is closed")

    def _stored(self) -> Serving:
        """For calls that need the storage alone."""
        self._need_open()
        return self._serving or self._make_serving(ToolSet((), None))

    def _make_serving(self, tools: ToolSet) -> Serving:
        allowed = self._executor.config.allow_runtime_deps
        return Serving(
            tools=tools,
            workflows=self._storage.get_workflow_library(),
            artifacts=self._storage.get_artifact_store(),
            deps=packages.Deps(self._given, self._storage.get_deps_store(), self._executor, allowed=allowed),
        )

    async def _started(self) -> Serving:
        self._need_open()
        async with self._starting:
            self._need_open()
            if self._serving is None:
                self._serving = await self._start()
            return self._serving

    async def _start(self) -> Serving:
        tools = ToolSet(await asyncio.to_thread(self._definitions), self._on_tool_call)
        try:
            await tools.start()
            serving = self._make_serving(tools)
            await self._executor.start(serving, self._needs)
            missing = self._needs.require - self._executor.capabilities()
            if missing:
                names = ", ".join(sorted(missing))
                raise CapabilityUnavailable(f"where the code would run, this is not proven: {names}")
            await (serving.deps.sync() if self._sync_deps_on_start else serving.deps.restore())
        except BaseException:
            await self._end(tools)
            raise
        return serving

    async def _end(self, tools: ToolSet) -> None:
        try:
            await self._executor.close()
        finally:
            await tools.close()

    def _definitions(self) -> list[Any]:
        found = list(self._storage.get_tool_store().list())
        return found if self._tools_path is None else [*found, *read_folder(self._tools_path)]


def _base(base: str | os.PathLike[str] | None, other: str | os.PathLike[str] | None = None) -> Path:
    given = [each for each in (base, other) if each is not None]
    if len(given) != 1:
        raise TypeError("base is the path of a folder; give it once")
    return Path(given[0]).expanduser().resolve()


def _requirements(base: Path) -> Path | None:
    file = base / "requirements.txt"
    return file if file.is_file() else None
