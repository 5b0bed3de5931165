"""The session, put together from its parts."""

from __future__ import annotations

from cellyard._async.cells import AsyncCellCalls
from cellyard._async.commands import AsyncCommandCalls
from cellyard._async.document import AsyncDocumentCalls
from cellyard._async.editing import AsyncEditCalls
from cellyard._async.executions import AsyncExecutionCalls
from cellyard._async.files import AsyncFileCalls
from cellyard._async.kernel import AsyncKernelCalls
from cellyard._async.packages import AsyncPackageCalls
from cellyard._async.watching import AsyncWatchCalls


class AsyncSession(
    AsyncExecutionCalls,
    AsyncCellCalls,
    AsyncEditCalls,
    AsyncDocumentCalls,
    AsyncFileCalls,
    AsyncCommandCalls,
    AsyncPackageCalls,
    AsyncKernelCalls,
    AsyncWatchCalls,
):
    """Runs code in a notebook: a document that lasts, with a kernel in a sandbox of its own.

        async with AsyncSession() as session:
            result = await session.run("1 + 1")
            print(result.value)  # 2

    Sessions of one `notebook_id` share document and kernel; without an id a fresh notebook is meant. Building a
    session does nothing yet: it connects when needed. Leaving `with` shuts the kernel down when this session used
    it and no other session that used it is still there.

    `endpoint` (unix:PATH or HOST:PORT), `token` and `tls` (True or a TLS) say where the controller is; without
    them CELLYARD_ENDPOINT and CELLYARD_TOKEN count, then RUNTIMED_SOCKET_PATH, else the user's own controller,
    which is started where it does not run.

    The other settings are those of a kernel that this session starts: `runtime` ("docker", "process"), `template`,
    `python_version` (another Python than the template's own, like "3.13", where the template has it),
    `network` ("none", "allowlist" or "open", where the operator allows it for the template), `require`
    (capabilities without which no kernel may start), `env` (variables), `files` (small files for the kernel's
    home, by plain name, there before the first cell runs), and in seconds
    `start_timeout` (from accept to start, waiting included), `idle_timeout` (of the sandbox) and `ttl` (its life
    from the claim). They are checked at the first call. `on_progress` is called with a `Progress` while a kernel
    starts. `labels` are added to the notebook's own when the session connects; lists of notebooks show them and are
    filtered by them.
    """
