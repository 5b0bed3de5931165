"""The docker runtime: sandboxes as containers of an engine on this machine."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from docker import APIClient
from docker.errors import APIError

from cellyard_controller.runtimes import (
    USUAL_PYTHON,
    CapabilityFact,
    Instance,
    Readiness,
    RuntimeFailed,
    SandboxSpec,
    Template,
    ToldFacts,
)
from cellyard_controller.runtimes.docker import canary, containers, host, images, seccomp, survey, verdict
from cellyard_controller.runtimes.docker.container import (
    container_name,
    container_settings,
)
from cellyard_controller.runtimes.docker.deviations import deviations
from cellyard_controller.runtimes.docker.engine import EngineCalls, T, engine_address
from cellyard_controller.runtimes.docker.exits import ExitEvents, Exits

START_BOUND = 90.0
STOP_BOUND = 45.0
LOOK_BOUND = 15.0
READY_BOUND = 5.0
"""Seconds that the engine has for each kind of call."""
READY_AGE = 1.0
FAILURE_AGE = 30.0
"""Seconds that an answer is believed: a readiness, and capabilities that were not all granted."""
LATE_MOST = 3
"""Canaries in a row that may be late; one that never answers is broken, and not slow."""
EVENTS_RENEWED = 60.0
_PAUSE_MIN, _PAUSE_MAX = 0.2, 10.0
CANARY_PREFIX = "canary-"
"""Begins the ids of canaries and of what else is started aside, which no sandbox of a notebook has."""


class DockerRuntime:
    """Sandboxes on the engine that DOCKER_HOST names, or the usual one, for one controller's data folder."""

    name = "docker"
    own_python = True

    def __init__(
        self,
        controller_id: str,
        scratch: Path,
        default_image: Callable[[str], str],
        *,
        host: str | None = None,
        engine_calls: int = 8,
    ) -> None:
        """`scratch` is a private folder for canaries on a file system that the engine sees; made when needed.

        `default_image` names the image of templates that name none, by the type of their kernel, with the version of
        an unusual Python behind it ("python", "deno", "python3.13"). An engine that
        cannot be used is no error here: `readiness` says so, and every call fails.
        """
        self._controller_id = controller_id
        self._scratch = scratch
        self._default_image = default_image
        self._default_images: dict[str, str] = {}
        self._refusal: RuntimeFailed | None = None
        address = ""
        try:
            address = engine_address(host)
        except RuntimeFailed as refusal:
            self._refusal = refusal
        self._engine = EngineCalls(address, engine_calls)
        self._health = EngineCalls(address, 1, socket_timeout=int(READY_BOUND))  # never waits behind a start
        self._private_cgroups: bool | None = None
        self._looking = asyncio.Lock()
        self._looks: dict[str, tuple[float, survey.Survey]] = {}
        self._failed_look: tuple[float, str] | None = None
        # One for each template: an OCI runtime that hangs holds up nobody else's canary.
        self._probing: defaultdict[Template, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._proven: dict[tuple[Template, str, str], list[CapabilityFact]] = {}
        self._late: Counter[Template] = Counter()
        self._seccomp = self._agent_version = ""
        self._canaries: set[str] = set()  # at work or done: a list that is being made may still show them
        self._exits = Exits()

    async def readiness(self, template: Template) -> Readiness:
        """Whether a sandbox could be started now: at most a second old, and known within 5 s."""
        try:
            return survey.readiness(await self._look(self._image(template)), template, self._agent())
        except RuntimeFailed as failure:
            return Readiness(ready=False, reason=str(failure))

    async def capabilities(self, template: Template) -> list[CapabilityFact]:
        """What a canary has shown for this template, on this engine; starts one where none did, 2 s."""
        ready = await self.readiness(template)
        if not ready.ready:
            return verdict.not_proven(ready.reason, time.time())
        try:
            profile = seccomp.digest(self._profile())
        except RuntimeFailed as failure:
            return verdict.not_proven(str(failure), time.time())
        # Whatever else changes (engine, image, kernel, an OCI runtime's command, the profile), is looked at anew.
        key = (template, profile, json.dumps(ready.details, sort_keys=True))
        async with self._probing[template]:
            known = self._proven.get(key)
            if known is None or not _believed(known, template):
                known = self._proven[key] = await self._probe(template)
            return list(known)

    async def makings(self, template: Template) -> str:
        """The image's id, and what else the engine would make a container of. Raises RuntimeFailed."""
        found = survey.readiness(await self._look(self._image(template)), template, self._agent())
        return json.dumps(found.details, sort_keys=True)

    async def start(self, spec: SandboxSpec) -> str:
        """Starts a sandbox and returns its container's id.

        Raises RuntimeFailed; what was made is removed then. Only where the engine fell silent in the middle
        of making it, a container may appear later: `instances` lists it.
        """
        return await self.start_with(spec, ())

    async def start_with(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Like `start`, with another command than the image's."""
        if spec.template.network not in ("none", "allowlist", "open"):
            raise RuntimeFailed("start_failed", f"the network policy {spec.template.network} cannot be had")
        if self._private_cgroups is None:
            self._private_cgroups = (await self._look(self._image(spec.template))).private_cgroups
        image = self._image(spec.template)
        if spec.template.image:
            unfit = survey.unfit(await self._look(image), spec.template, self._agent())
            if unfit:
                raise RuntimeFailed("image_missing", unfit)
        settings = container_settings(
            spec, image, seccomp=self._profile(), private_cgroups=self._private_cgroups, command=command
        )
        work = partial(
            containers.create_and_start,
            name=container_name(spec.sandbox_id),
            settings=settings,
            image_missing=survey.image_missing(image, spec.template),
        )
        instance_id = await self._call(work, "start_failed", bound=START_BOUND, undo=containers.remove)
        self._exits.started(instance_id)
        return instance_id

    async def start_aside(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Starts this program as a sandbox would be. Raises RuntimeFailed."""
        aside = replace(spec, sandbox_id=f"{CANARY_PREFIX}{spec.sandbox_id}")
        self._canaries.add(aside.sandbox_id)
        try:
            return await self.start_with(aside, command)
        except BaseException:
            self._canaries.discard(aside.sandbox_id)  # it may have been left behind: let `instances` show it
            raise

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: ToldFacts) -> list[str]:
        """In what a sandbox is not as it must be: what its agent told against what the host's /proc shows.

        Raises RuntimeFailed.
        """
        template = spec.template
        seen = host.look_at(await self.host_pid(instance_id), told.peer_pid)
        oci_program = await self._oci_program(template)
        mounted = spec.environment is not None
        found = list(deviations(told, seen, template, spec.uid, oci_program=oci_program, environment=mounted))
        if seen is None:
            # Where the host showed nothing of the canary either, nothing was promised.
            proven = {fact.name for fact in await self.capabilities(template) if fact.granted}
            if verdict.PROCESS_ISOLATION in proven:
                found.append("the host shows nothing of it")
        return found

    async def stop(self, instance_id: str) -> None:
        """Kills and removes a container. One that is gone already is no error. Raises RuntimeFailed."""
        await self._call(partial(containers.remove, container_id=instance_id), "runtime_lost", bound=STOP_BOUND)

    async def inspect(self, instance_id: str) -> Instance | None:
        """One container as it stands, None where it is gone. Raises RuntimeFailed."""
        return await self._call(partial(containers.inspect, container_id=instance_id), "runtime_lost", bound=LOOK_BOUND)

    async def host_pid(self, instance_id: str) -> int:
        """The number of a container's first process on the host; 0 where none runs. Raises RuntimeFailed."""
        return await self._call(
            partial(containers.host_pid, container_id=instance_id), "runtime_lost", bound=LOOK_BOUND
        )

    async def instances(self, controller_id: str) -> list[Instance]:
        """All containers with this controller's label, ended and half-made ones too, our own canaries not."""
        found = await self._call(
            partial(containers.listed, controller_id=controller_id), "runtime_lost", bound=LOOK_BOUND
        )
        return [instance for instance in found if instance.sandbox_id not in self._canaries]

    async def log_tail(self, instance_id: str) -> str:
        """The last lines that the agent wrote to stdout and stderr, at most 4 KiB. Untrusted text.

        Raises RuntimeFailed.
        """
        return await self._call(
            partial(containers.log_tail, container_id=instance_id), "runtime_lost", bound=LOOK_BOUND
        )

    async def watch(self, on_exit: Callable[[str], None]) -> None:
        """Calls on_exit(container id) once for each that ends or has ended, whether or not the engine told.

        Runs until cancelled.
        """
        pause = _PAUSE_MIN
        while True:
            try:
                with ExitEvents(self._engine, self._controller_id).reading() as events:
                    async with asyncio.timeout(LOOK_BOUND):
                        await events.opened()
                    for instance_id in await self._unseen_exits():
                        on_exit(instance_id)
                    pause = _PAUSE_MIN
                    try:
                        async with asyncio.timeout(EVENTS_RENEWED):
                            async for instance_id, sandbox_id in events.deaths():
                                if not sandbox_id.startswith(CANARY_PREFIX) and self._exits.died(instance_id):
                                    on_exit(instance_id)
                    except TimeoutError:
                        continue  # a stream that died without a word would look like this one
            except (RuntimeFailed, TimeoutError):
                pause = min(pause * 2, _PAUSE_MAX)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Lets go of connections and threads; containers go on."""
        self._engine.close()
        self._health.close()

    async def _probe(self, template: Template) -> list[CapabilityFact]:
        sandbox_id = f"{CANARY_PREFIX}{uuid.uuid4().hex[:12]}"
        self._canaries.add(sandbox_id)
        try:
            with _link_folder(self._scratch) as link_dir:
                spec = SandboxSpec(sandbox_id, self._controller_id, template, link_dir, canary.CANARY_UID)
                seen = await canary.sight(spec, self, await self._oci_program(template))
        except (canary.CanaryFailed, OSError) as failure:
            self._late[template] = self._late[template] + 1 if isinstance(failure, canary.CanaryLate) else 0
            return verdict.not_proven(str(failure), time.time(), late=0 < self._late[template] <= LATE_MOST)
        except RuntimeFailed as failure:
            self._canaries.discard(sandbox_id)  # it may have been left behind: let `instances` show it
            return verdict.not_proven(str(failure), time.time())
        except asyncio.CancelledError:
            self._canaries.discard(sandbox_id)
            raise
        self._late[template] = 0
        return verdict.judge(seen, template, time.time())

    async def _oci_program(self, template: Template) -> str:
        """The path of the program of the OCI runtime that a template names; "" where it names none."""
        if not template.oci_runtime:
            return ""
        known = (await self._look(self._image(template))).oci_runtimes
        command = known.get(template.oci_runtime, "").split()
        found = shutil.which(command[0]) if command else None
        return str(await asyncio.to_thread(Path(found).resolve)) if found else ""

    async def _look(self, image: str) -> survey.Survey:
        """The engine as it is, at most a second old."""
        if self._refusal is not None:
            raise self._refusal
        async with self._looking:
            if self._failed_look is not None and _fresh(self._failed_look[0]):
                raise RuntimeFailed("runtime_lost", self._failed_look[1])
            known = self._looks.get(image)
            if known is not None and _fresh(known[0]):
                return known[1]
            try:
                found = await self._health.call(partial(survey.look, image=image), bound=READY_BOUND)
            except (RuntimeFailed, APIError) as failure:
                self._failed_look = time.monotonic(), str(failure)
                raise RuntimeFailed("runtime_lost", str(failure)) from failure
            self._looks[image] = time.monotonic(), found
            self._failed_look = None
            return found

    async def _unseen_exits(self) -> list[str]:
        alive = self._exits.alive()
        return self._exits.compare(alive, await self.instances(self._controller_id))

    async def _call(
        self,
        work: Callable[[APIClient], T],
        reason: str,
        *,
        bound: float,
        undo: Callable[[APIClient, T], None] | None = None,
    ) -> T:
        if self._refusal is not None:
            raise self._refusal
        try:
            return await self._engine.call(work, bound=bound, undo=undo)
        except APIError as refused:
            raise RuntimeFailed(reason, f"the container engine refused: {refused.explanation or refused}") from refused

    def _profile(self) -> str:
        if not self._seccomp:
            self._seccomp = seccomp.profile()
        return self._seccomp

    def _image(self, template: Template) -> str:
        if template.image:
            return template.image
        kernel_type = template.kernel_type
        if template.python not in ("", USUAL_PYTHON):
            kernel_type += template.python
        if kernel_type not in self._default_images:
            self._default_images[kernel_type] = self._default_image(kernel_type)
        return self._default_images[kernel_type]

    def _agent(self) -> str:
        if not self._agent_version:
            self._agent_version = images.agent_version()
        return self._agent_version


@contextmanager
def _link_folder(scratch: Path) -> Iterator[Path]:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        # As for any sandbox: `scratch` keeps everybody out, and whoever has the folder mounted may open what
        # is in it.
        Path(folder).chmod(0o711)
        yield Path(folder)


def _fresh(at: float) -> bool:
    return time.monotonic() - at < READY_AGE


def _believed(facts: Sequence[CapabilityFact], template: Template) -> bool:
    # What was proven stays so for this image and engine; what was not may have been mended meanwhile.
    return verdict.lasting(facts, template) or 0 <= time.time() - facts[0].probed_at < FAILURE_AGE
