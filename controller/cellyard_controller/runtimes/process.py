"""The process runtime: sandboxes as processes of the controller's user, for trusted work without an engine.

Nothing here keeps code from this user's files or from the network, and `capabilities` says so. What is
promised: a home of its own, an environment without secrets, and that nothing survives a stop or the
controller.
"""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cellyard_controller.runtimes import (
    CapabilityFact,
    Instance,
    Readiness,
    RuntimeFailed,
    SandboxSpec,
    Template,
    ToldFacts,
    keeper,
)

END_GRACE = 2.0
"""Seconds that an agent has for ending by itself, before it is killed."""
KILL_BOUND = keeper.KILL_BOUND_S + 2.0
_NEEDED = ("cellyard_sandbox", "ipykernel", "jupyter_client", "zmq")
_NOFILE = 4096
_TAIL_BYTES = 4096
_LISTEN_BOUND = 1.0
_CANARY = "canary-"
_PROBED = ("timeout", "process_isolation", "reset", "deps_install")
_PROBE_BOUND = 20.0
_PROBE_INSTALL = """
import os, subprocess, sys
from cellyard_sandbox import files, packages
from cellyard_proto.beneath import Home
brought = packages.Packages(Home(files.open_folder(os.getcwd())), os.getcwd())
brought.prepare()
env = {**os.environ, "PYTHONPATH": brought.start_folder()}
with open(os.path.join(packages.FOLDER, "cellyard_probe.py"), "w") as module:
    module.write("print('imported', flush=True)")
subprocess.run([sys.executable, "-P", "-c", "import cellyard_probe"], env=env, check=True)
"""
"""Does what an agent does for packages that come in, and has another program import one."""
_PROBE = """
import json, os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    print(json.dumps({"pids": [os.getppid(), os.getpid()], "home": os.listdir()}), flush=True)
while True:
    signal.pause()
"""
"""Ignores being told to end, as does its child, which leaves the session."""


@dataclass(slots=True)
class _Child:
    """One sandbox: the keeper's process and what belongs to it."""

    spec: SandboxSpec
    process: asyncio.subprocess.Process
    folder: Path
    said: bytearray = field(default_factory=bytearray)
    """The end of what was written to stdout and stderr."""
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def instance(self) -> Instance:
        code = self.process.returncode
        return Instance(
            instance_id=str(self.process.pid),
            sandbox_id=self.spec.sandbox_id,
            controller_id=self.spec.controller_id,
            running=code is None,
            exit_code=code,
        )


class ProcessRuntime:
    """Sandboxes as processes. They end with this runtime, and with its process even where that is killed.

    Use it from one event loop, on a thread that lives as long as the process: the kernel ties a child to the
    thread that started it.
    """

    name = "process"
    own_python = False

    def __init__(self, base: Path) -> None:
        """`base` is a folder of this runtime alone, below which sandboxes have theirs; what is there, goes.

        Its path must be short: kernels put unix sockets below it.
        """
        self._base = base
        self._swept = False
        self._folders = asyncio.Lock()
        self._children: dict[str, _Child] = {}
        self._ended: asyncio.Queue[str] = asyncio.Queue()
        self._probing = asyncio.Lock()
        self._proven: list[CapabilityFact] | None = None

    async def readiness(self, template: Template) -> Readiness:
        """Whether the agent is installed here."""
        missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            names = ", ".join(missing)
            return Readiness(False, f"{names} is missing: run `pip install 'cellyard[sandbox]'`")
        if template.network != "none":
            return Readiness(False, f"the process runtime has no network policy, {template.network} neither")
        return Readiness(True, details={"python": sys.version.split()[0]})

    async def makings(self, template: Template) -> str:
        """The interpreter that runs the controller, which does not change."""
        return sys.executable

    async def capabilities(self, template: Template) -> list[CapabilityFact]:
        """What a probe has shown, once; isolation is not even tried."""
        async with self._probing:
            if self._proven is None:
                now = time.time()
                evidence = await self._probe(template)
                shown = [CapabilityFact(name, granted, why, now) for name, (granted, why) in evidence.items()]
                if not all(fact.granted for fact in shown):
                    return [*shown, *_not_isolated(now)]
                self._proven = [*shown, *_not_isolated(now)]
            return list(self._proven)

    async def start(self, spec: SandboxSpec) -> str:
        """Starts an agent in a fresh home and returns the process id of its keeper. Raises RuntimeFailed."""
        folder = await self._new_folder()
        child = await self._spawn(spec, folder, _agent_command(spec, folder))
        return child.instance.instance_id

    async def start_aside(self, spec: SandboxSpec, command: Sequence[str]) -> str:
        """Starts nothing: there is no image here whose programs could be meant. Raises RuntimeFailed."""
        raise RuntimeFailed("start_failed", "the process runtime starts agents alone")

    async def deviations(self, instance_id: str, spec: SandboxSpec, told: ToldFacts) -> list[str]:
        """None: nothing confines these sandboxes, so there is nothing to compare."""
        return []

    async def stop(self, instance_id: str) -> None:
        """Lets the agent end, kills what is left after 2 s, and removes its folder. Raises RuntimeFailed."""
        await self._end(instance_id, END_GRACE)

    async def inspect(self, instance_id: str) -> Instance | None:
        """One sandbox as it stands, None where it was stopped."""
        child = self._children.get(instance_id)
        return None if child is None else child.instance

    async def instances(self, controller_id: str) -> list[Instance]:
        """The sandboxes that were started here and not stopped. Those of an earlier process ended with it."""
        found = [child.instance for child in self._children.values()]
        return [instance for instance in found if instance.controller_id == controller_id]

    async def log_tail(self, instance_id: str) -> str:
        """The last that the agent wrote to stdout and stderr, at most 4 KiB. Untrusted text."""
        child = self._children.get(instance_id)
        return "" if child is None else child.said.decode(errors="replace")

    async def watch(self, on_exit: Callable[[str], None]) -> None:
        """Calls on_exit(instance id) for each sandbox that ends or has ended. Runs until cancelled."""
        while True:
            on_exit(await self._ended.get())

    async def close(self) -> None:
        """Ends every sandbox that is left: they cannot outlive this process anyway."""
        for instance_id in list(self._children):
            await self._end(instance_id, 0.0)

    async def _probe(self, template: Template) -> dict[str, tuple[bool, str]]:
        """Starts something that will not end by itself, ends it, and looks what is left."""
        name = f"{_CANARY}{uuid.uuid4().hex[:12]}"
        try:
            folder = await self._new_folder()
            spec = SandboxSpec(name, "", template, folder, os.getuid())
            child = await self._spawn(spec, folder, [sys.executable, "-I", "-S", "-c", _PROBE])
            try:
                async with asyncio.timeout(_PROBE_BOUND):
                    await child.spoke.wait()
                said = json.loads(child.said)
            finally:
                started = time.monotonic()
                await self._end(child.instance.instance_id, 0.0)
        except (RuntimeFailed, TimeoutError, ValueError) as failure:
            why = f"not proven: the probe did not run ({str(failure) or 'no answer'})"
            return dict.fromkeys(_PROBED, (False, why))
        took = time.monotonic() - started
        installs = await self._probe_install(template)
        left = [pid for pid in said["pids"] if keeper.living_parent(str(pid)) is not None]
        survived = f"processes outlived a probe that was ended: {left}"
        fresh = not said["home"] and not folder.exists()
        return {
            "timeout": (
                not left,
                survived if left else f"a process that ignores signals was ended in {took:.2f} s",
            ),
            "process_isolation": (
                not left,
                survived if left else "a process of its own, which nothing outlives",
            ),
            "reset": (
                fresh,
                "a home of its own, " + ("empty at first and removed" if fresh else "but not a new one"),
            ),
            "deps_install": (
                not installs,
                installs or "a module that was put into a running sandbox could be imported by a program there",
            ),
        }

    async def _probe_install(self, template: Template) -> str:
        """Why what is brought into a sandbox cannot be imported there; "" where it can."""
        try:
            spec = SandboxSpec(f"{_CANARY}{uuid.uuid4().hex[:12]}", "", template, Path(), os.getuid())
            child = await self._spawn(spec, await self._new_folder(), [sys.executable, "-P", "-c", _PROBE_INSTALL])
            try:
                async with asyncio.timeout(_PROBE_BOUND):
                    await child.process.wait()
                    await asyncio.wait(child.tasks)
                said = child.said.decode(errors="replace").strip()
            finally:
                await self._end(child.instance.instance_id, 0.0)
        except (RuntimeFailed, TimeoutError) as failure:
            return f"not proven: the probe did not run ({str(failure) or 'no answer'})"
        return "" if said == "imported" else f"nothing that is put there can be imported: {said[-200:]}"

    async def _spawn(self, spec: SandboxSpec, folder: Path, command: Sequence[str]) -> _Child:
        limits = {"core": 0, "nofile": _NOFILE, "fsize": _file_size(spec.template)}
        keep = [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), json.dumps(limits)]
        try:
            process = await asyncio.create_subprocess_exec(
                *keep,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder / "home",
                env=_environment(folder),
                start_new_session=True,
            )
        except OSError as error:
            await asyncio.to_thread(_remove_tree, folder)
            raise RuntimeFailed("start_failed", f"no process could be started: {error}") from error
        child = _Child(spec, process, folder)
        self._children[child.instance.instance_id] = child
        child.tasks = [asyncio.create_task(_listen(child)), asyncio.create_task(self._await_end(child))]
        return child

    async def _await_end(self, child: _Child) -> None:
        code = await child.process.wait()
        if code < 0:
            # The keeper itself was killed, by what it kept or from outside. The agent died with it, by the
            # kernel's word; what else is in the session is caught here.
            _kill_session(child.process.pid)
        if not child.spec.sandbox_id.startswith(_CANARY):
            self._ended.put_nowait(child.instance.instance_id)

    async def _end(self, instance_id: str, grace: float) -> None:
        child = self._children.get(instance_id)
        if child is None:
            return
        for number, bound in ((keeper.END, grace), (keeper.KILL, KILL_BOUND), (signal.SIGKILL, KILL_BOUND)):
            if bound and await _ended_after(child, number, bound):
                break
        else:
            raise RuntimeFailed("runtime_lost", f"process {instance_id} does not end: what does it wait for?")
        await asyncio.wait(child.tasks, timeout=_LISTEN_BOUND)
        for task in child.tasks:
            task.cancel()  # only where something that left its keeper still holds the pipe
        self._children.pop(instance_id, None)
        await asyncio.to_thread(_remove_tree, child.folder)

    async def _new_folder(self) -> Path:
        async with self._folders:
            if not self._swept:
                # Whatever lies here is of a controller that was killed: its sandboxes died with it.
                await asyncio.to_thread(_sweep, self._base)
                self._swept = True
        return await asyncio.to_thread(self._make_folder)

    def _make_folder(self) -> Path:
        try:
            self._base.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="", dir=self._base))
            (folder / "home").mkdir(mode=0o700)
            (folder / "tmp").mkdir(mode=0o700)
        except OSError as error:
            why = f"no folder can be made below {self._base}: {error}"
            raise RuntimeFailed("start_failed", why) from error
        return folder


def _agent_command(spec: SandboxSpec, folder: Path) -> list[str]:
    # -P: no file in the home, which is the working directory, may stand in for a module.
    agent = [sys.executable, "-P", "-m", "cellyard_sandbox", "--link", str(spec.link_dir / "agent.sock")]
    return [*agent, "--home", str(folder / "home"), "--scratch", str(folder / "tmp")]


def _environment(folder: Path) -> dict[str, str]:
    """All that an agent gets to know of the controller's environment."""
    user = getpass.getuser()
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "USER": user,
        "LOGNAME": user,
    }


def _file_size(template: Template) -> int:
    return template.home_bytes + template.tmp_bytes + template.shm_bytes


async def _listen(child: _Child) -> None:
    assert child.process.stdout is not None
    while part := await child.process.stdout.read(65_536):
        child.said += part
        del child.said[:-_TAIL_BYTES]
        child.spoke.set()


async def _ended_after(child: _Child, number: int, bound: float) -> bool:
    try:
        child.process.send_signal(number)
    except ProcessLookupError:
        pass  # it has ended, and is about to be seen so
    try:
        async with asyncio.timeout(bound):
            await child.process.wait()
    except TimeoutError:
        return False
    return True


def _kill_session(session: int) -> None:
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.getsid(int(name)) == session:
                os.kill(int(name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or another user's


def _sweep(base: Path) -> None:
    if base.is_dir():
        for left in base.iterdir():
            _remove_tree(left)


def _remove_tree(folder: Path) -> None:
    def open_up(_call: Callable[..., object], path: str, _error: object) -> None:
        # Folders that their own owner may not enter can be opened up again; what stays then, stays.
        try:
            os.chmod(Path(path).parent, 0o700)
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass

    shutil.rmtree(folder, onerror=open_up)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


def _not_isolated(now: float) -> list[CapabilityFact]:
    why = "runs as this machine's user, with the user's files and network: use the docker runtime"
    return [CapabilityFact(name, False, why, now) for name in ("container_isolation", "network_isolation")]
