"""Packages for a kernel that runs: fetched outside of its sandbox, beside what it has, and brought in over the link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellyard_controller import faults
from cellyard_controller.environments import beside, packing
from cellyard_controller.environments.definition import Definition
from cellyard_controller.environments.making import STAGE, Environments, Report
from cellyard_controller.errors import CapabilityUnavailable, Unavailable
from cellyard_controller.ids import NotebookRef
from cellyard_controller.notebooks.inbox import Ask
from cellyard_controller.notebooks.ledger import Ledger
from cellyard_controller.notebooks.visits import Visits
from cellyard_controller.sandboxes.flows import (
    BringPackages,
    Content,
    Done,
    FlowFailed,
    ListBrought,
    Package,
    RemoveBrought,
    SurveyPackages,
    brought,
    file_header,
)
from cellyard_controller.sandboxes.sandbox import Sandbox
from cellyard_controller.store.requests import Request
from cellyard_proto import amounts
from cellyard_proto.flows import cost

CAPABILITY = "deps_install"
_SURVEY_WITHIN = 60.0
_SURVEY_MOST = 16 * 1024 * 1024
_HEARD_WITHIN = 90.0
_HEARD_MOST = 2 * _SURVEY_MOST
"""Seconds and bytes in which an agent has said what it has to."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it."""

    packages: tuple[Package, ...]
    already_present: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What became of each."""

    removed: tuple[Package, ...]
    not_found: tuple[str, ...]


class Installing:
    """What was, and is to be, installed into one room's sandbox. Its coroutines may be called from any task."""

    def __init__(
        self,
        ref: NotebookRef,
        *,
        visits: Visits,
        environments: Environments,
        ledger: Ledger,
        ask: Ask,
    ) -> None:
        self._ref, self._visits, self._environments = ref, visits, environments
        self._ledger, self._ask = ledger, ask
        self._turn = asyncio.Lock()

    async def install(self, request: Request, wanted: Definition, report: Report) -> Installed:
        """Has packages importable in the kernel, at once. All of them come, or none.

        One at a time in a sandbox, because each has to stand beside what came before. A request that is repeated gets
        the same answer, also where what it brought is there and the controller died before that was noted.
        Raises EnvironmentFailed, CapabilityUnavailable, and what Visits does.
        """
        async with self._turn:
            if (answer := await self._answered(request)) is not None:
                return Installed(*_from_json(answer))
            async with self._inside() as sandbox:
                done = await self._install(sandbox, request, wanted, report)
            faults.point("packages-brought")
            await self._note(request, _to_json(done.packages, done.already_present))
            return done

    async def uninstall(self, request: Request, names: tuple[str, ...]) -> Uninstalled:
        """Removes what was installed of these. Raises what Visits does."""
        async with self._turn:
            if (answer := await self._answered(request)) is not None:
                return Uninstalled(*_from_json(answer))
            async with self._inside() as sandbox:
                gone = await self._told(sandbox, RemoveBrought(names))
            there = {package.name for package in gone}
            done = Uninstalled(tuple(gone), tuple(name for name in names if name not in there))
            await self._note(request, _to_json(done.removed, done.not_found))
            return done

    async def listed(self) -> list[Package]:
        """What was installed and not removed, by name. Raises what Visits does."""
        async with self._inside() as sandbox:
            return await self._told(sandbox, ListBrought())

    # Inside

    async def _install(self, sandbox: Sandbox, request: Request, wanted: Definition, report: Report) -> Installed:
        report(STAGE, "looking what the kernel has")
        there = await self._told(sandbox, ListBrought())
        present = beside.read_survey(await self._survey(sandbox))
        # Of an attempt whose answer was lost with its controller. All of it came, or nothing.
        came = tuple(each for each in there if request.request_id and each.request_id == request.request_id)
        requirements = beside.missing(wanted, present, {each.name for each in there})
        if requirements and not came:
            definition = beside.for_present(wanted, requirements, present)
            tenant, runtime, template = self._ref.tenant, sandbox.runtime, sandbox.template
            async with self._environments.held(tenant, definition, runtime, template, report) as key:
                site = self._environments.site(key)
                assert site is not None
                packed = await asyncio.to_thread(packing.pack, site)
                came = tuple(Package(name, version) for name, version in packed.packages)
                await self._bring(sandbox, request, site, packed, report)
        return Installed(came, beside.already(wanted, {each.name for each in came}))

    async def _bring(
        self, sandbox: Sandbox, request: Request, site: Path, packed: packing.Packed, report: Report
    ) -> None:
        packages = tuple(Package(name, version) for name, version in packed.packages)
        order = BringPackages(request.request_id, packages, len(packed.files), packed.size)
        pieces = packing.stream(site, packed, _header)
        report(STAGE, f"bringing {len(packages)} packages in, {amounts.size(packed.size)}")
        async with self._visits.flow(sandbox, order) as flow:
            while piece := await asyncio.to_thread(next, pieces, b""):
                await flow.send(piece)
            await flow.done()

    async def _survey(self, sandbox: Sandbox) -> str:
        """What Python packages are there, as the sandbox tells."""
        said, done = await self._heard(sandbox, SurveyPackages(_SURVEY_WITHIN, _SURVEY_MOST))
        if done.timed_out or done.exit_code or done.signal:
            raise Unavailable("the sandbox does not tell what packages it has: too little memory, or a stopped kernel?")
        return b"".join(said).decode(errors="replace")

    async def _told(self, sandbox: Sandbox, what: ListBrought | RemoveBrought) -> list[Package]:
        """The packages that the agent names."""
        said, _ = await self._heard(sandbox, what)
        try:
            return [package for content in said for package in brought(content)]
        except FlowFailed as bad:
            raise Unavailable(str(bad)) from None

    async def _heard(
        self, sandbox: Sandbox, what: SurveyPackages | ListBrought | RemoveBrought
    ) -> tuple[list[bytes], Done]:
        """What the agent says to this. Untrusted: so much of it, for so long."""
        said, left = [], _HEARD_MOST
        try:
            async with asyncio.timeout(_HEARD_WITHIN), self._visits.flow(sandbox, what) as flow:
                while not isinstance(told := await flow.next(), Done):
                    if isinstance(told, Content) and not told.stderr:
                        said.append(told.content)
                        left -= cost(told.content)
                    if left < 0:
                        raise FlowFailed("failed", "the sandbox tells of more packages than it can have")
        except TimeoutError:
            raise Unavailable("the sandbox does not tell what packages it has") from None
        return said, told

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[Sandbox]:
        async with self._visits.inside("packages of its own") as sandbox:
            if CAPABILITY not in sandbox.capabilities:
                why = f"{CAPABILITY} was not proven for the sandbox: capabilities() says why"
                if sandbox.kernel_type == "deno":
                    why = "a Deno kernel takes no Python packages"
                elif not sandbox.env_source.startswith("uv:"):
                    why = f"its environment is {sandbox.env_source}, and its packages are conda's: list them there"
                raise CapabilityUnavailable(f"nothing can be installed into this kernel: {why}", capability=CAPABILITY)
            yield sandbox

    async def _answered(self, request: Request) -> str | None:
        async def work() -> str | None:
            return await self._ledger.answered(request)

        return await self._ask(work)

    async def _note(self, request: Request, answer: dict[str, Any]) -> None:
        async def work() -> None:
            await self._ledger.commit_done(request, json.dumps(answer))

        await self._ask(work)


def _header(file: packing.PackedFile) -> bytes:
    return file_header(file.path, file.size, executable=file.executable, owners=file.owners)


def _to_json(packages: Iterable[Package], names: Iterable[str]) -> dict[str, Any]:
    return {"packages": [[each.name, each.version] for each in packages], "names": list(names)}


def _from_json(answer: str) -> tuple[tuple[Package, ...], tuple[str, ...]]:
    about = json.loads(answer)
    return tuple(Package(name, version) for name, version in about["packages"]), tuple(about["names"])
