"""The tools for kernels, the sandboxes that they run in, and the list of notebooks."""

from __future__ import annotations

from mcp import types

from cellyard.mcp import arguments, results
from cellyard.mcp.tools import Call, Tool, listing


async def list_notebooks(call: Call, given: arguments.ListNotebooks) -> types.CallToolResult:
    """The caller's notebooks, by id."""
    async with call.client() as client:
        found = await client.list_notebooks(given.limit, given.after)
    shown = [results.fields(each, "notebook_id", "created_at", "changed_at", "labels") for each in found]
    return results.data(
        {
            "own_notebook_id": call.notebooks.own,
            **({"next_after": found[-1].notebook_id} if len(found) == given.limit else {}),
            "notebooks": shown,
        }
    )


async def list_sessions(call: Call, given: arguments.NoArguments) -> types.CallToolResult:
    """The kernels that run, each in a sandbox; sandboxes that nobody has, or that are ending, are left out."""
    async with call.client() as client:
        # The operator sees those of all tenants, and reaches only notebooks of its own.
        tenant = (await client.server()).tenant
        found = [
            each
            for each in await client.list_sandboxes()
            if each.notebook_id and each.tenant == tenant and each.state == "claimed"
        ]
    shown = [
        results.fields(each, "notebook_id", "sandbox_id", "state", "template", "runtime", "claimed_at")
        for each in found
    ]
    return results.data({"own_notebook_id": call.notebooks.own, "sessions": shown})


async def stop_session(call: Call, given: arguments.OfNotebook) -> types.CallToolResult:
    """Ends a notebook's kernel and its sandbox."""
    async with call.at(given.notebook_id) as session:
        await session.shutdown_kernel()
        call.notebooks.ended(given.notebook_id)
        return results.text(f"the kernel of notebook {session.notebook_id} is stopped; its cells and outputs are kept")


async def interrupt(call: Call, given: arguments.OfNotebook) -> types.CallToolResult:
    """Ends the cell that runs."""
    async with call.at(given.notebook_id) as session:
        await session.interrupt()
        return results.text(f"what runs in notebook {session.notebook_id} is interrupted")


async def restart_kernel(call: Call, given: arguments.OfNotebook) -> types.CallToolResult:
    """Gives a notebook a fresh kernel in the same sandbox."""
    async with call.at(given.notebook_id) as session:
        await session.restart_kernel()
        return results.text(f"the kernel of notebook {session.notebook_id} is a fresh one; its variables are gone")


async def install_packages(call: Call, given: arguments.InstallPackages) -> types.CallToolResult:
    """Brings packages into the running kernel; starts one where none runs."""
    async with call.at(given.notebook_id, makes=True, kernel=True) as session:
        done = await session.install(*given.requirements)
    came = ", ".join(f"{each.name} {each.version}" for each in done.installed)
    there = ", ".join(done.already_present)
    return results.text(
        "\n".join(line for line in (came and f"installed: {came}", there and f"there before: {there}") if line)
    )


TOOLS = (
    Tool(
        "list_notebooks",
        "List notebooks",
        "Lists the notebooks that exist, by id.",
        arguments.ListNotebooks,
        list_notebooks,
        reads=True,
        gives=listing("notebooks", own_notebook_id={"type": "string"}, next_after={"type": "string"}),
    ),
    Tool(
        "list_sessions",
        "List sessions",
        "Lists the kernels that run now, each in a sandbox of its own, with the notebook that each belongs to.",
        arguments.NoArguments,
        list_sessions,
        reads=True,
        gives=listing("sessions", own_notebook_id={"type": "string"}),
    ),
    Tool(
        "stop_session",
        "Stop a session",
        "Ends a notebook's kernel and its sandbox: variables, files and installed packages are gone, cells and outputs"
        " stay. Running code again starts a new one.",
        arguments.OfNotebook,
        stop_session,
        destroys=True,
        repeatable=True,
    ),
    Tool(
        "interrupt",
        "Interrupt",
        "Interrupts the code that runs in a notebook, as Ctrl-C does; the kernel keeps its state.",
        arguments.OfNotebook,
        interrupt,
        destroys=True,
        repeatable=True,
    ),
    Tool(
        "restart_kernel",
        "Restart the kernel",
        "Replaces a notebook's kernel by a fresh one: variables are gone, files and packages stay.",
        arguments.OfNotebook,
        restart_kernel,
        destroys=True,
    ),
    Tool(
        "install_packages",
        "Install packages",
        "Makes Python packages importable in the running kernel at once; the sandbox needs no network for it.",
        arguments.InstallPackages,
        install_packages,
    ),
)
