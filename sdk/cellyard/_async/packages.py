"""A session's packages: into the running kernel, and out of it."""

from __future__ import annotations

from cellyard import _io_async, _requests, _translate
from cellyard._async.kernel import AsyncKernelCalls
from cellyard._async.transport import Connection
from cellyard.errors import ControllerUnavailable
from cellyard.packages import InstallResult, Package, UninstallResult, packages
from cellyard_proto.v1 import kernels_pb2


class AsyncPackageCalls(AsyncKernelCalls):
    """The part of a session that is about packages for the kernel that runs."""

    async def install(self, *requirements: str) -> InstallResult:
        """Has packages importable in the running kernel, at once, and in the programs that its cells start.

        `requirements` are names, extras and versions, e.g. "polars>=1". Connects and starts a kernel where needed.
        They are fetched outside of the sandbox, which needs no network, with what they need and it has not; all of
        them come, or none. What is there already stays as it is. They are there until the sandbox ends, also after
        the kernel was restarted. Steps are told to `on_progress`; breaking the call off leaves nothing behind.

        Raises EnvironmentFailed for what cannot be had beside what is there (`details` has the requirement and the
        log); InvalidRequest for URLs, paths, options and markers; CapabilityUnavailable for a kernel that takes no
        packages, as a Deno one; QuotaExceeded where the home is full; and what `start_kernel` raises.
        """
        request = _requests.build(
            kernels_pb2.InstallRequest,
            notebook_id=self._notebook_id,
            request_id=_requests.request_id(),
            requirements=[_requests.text("a requirement", each) for each in requirements],
        )
        await self._with_kernel()

        def ask(connection: Connection) -> _io_async.Call[kernels_pb2.InstallEvent]:
            return connection.stubs.kernels.Install(request, metadata=connection.metadata)

        async for event in self._transport.stream(ask, lambda event: event.HasField("installed")):
            if event.HasField("progress"):
                await _io_async.tell(self._on_progress, _translate.progress(event.progress))
            elif event.HasField("installed"):
                done = event.installed
                return InstallResult(packages(done.packages), tuple(done.already_present))
        raise ControllerUnavailable("the installation's stream ended before its end")

    async def uninstall(self, *names: str) -> UninstallResult:
        """Removes packages that `install` brought, and not what those needed. What is imported already stays so.

        Raises NoKernel where none runs, InvalidRequest for what is no name.
        """
        request = _requests.build(
            kernels_pb2.UninstallRequest,
            notebook_id=self._notebook_id,
            request_id=_requests.request_id(),
            names=[_requests.text("a name", each) for each in names],
        )
        await self._connected()
        answer = await self._transport.call(lambda s: s.kernels.Uninstall, request)
        return UninstallResult(packages(answer.removed), tuple(answer.not_found))

    async def installed(self) -> list[Package]:
        """What `install` brought into the kernel's sandbox and `uninstall` has not removed, by name.

        Raises NoKernel where none runs.
        """
        await self._connected()
        request = kernels_pb2.ListInstalledRequest(notebook_id=self._notebook_id)
        return list(packages((await self._transport.call(lambda s: s.kernels.ListInstalled, request)).packages))
