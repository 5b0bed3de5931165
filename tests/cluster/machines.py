"""Machines on one machine: each with its own name, network, processes, folders and container engine. Needs root.

A machine is a set of namespaces that its first process holds. A switch joins the machines and the one that the tests
run on. Nothing of it outlives the tests but the folder and the control groups, which `Machines.close` removes.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_network
from pathlib import Path

WITHIN_S = 60.0
ENGINE = "/run/docker.sock"
"""The engine's socket, as each machine has it."""
_INIT = Path(__file__).with_name("machine_init.py")
_NAMESPACES = ("--net", "--uts", "--mount", "--pid")
_PAUSE_S = 0.1


class Machine:
    """One machine. `close`, or the end of the tests' process, ends all that runs on it at once, as a power cut does."""

    def __init__(self, name: str, address: str, folder: Path, cgroup: str, *, mounts_of: Machine | None = None) -> None:
        """`mounts_of`: a machine whose mounts this one begins with; without it, those that the tests see."""
        self.name, self.address, self.folder = name, address, folder
        for each in ("run", "lib", "etc"):
            (folder / each).mkdir(parents=True)
        self.engine = f"unix://{folder}{ENGINE}"
        """The address of its engine, as seen from outside; on the machine itself it is the usual one."""
        self._cgroup = cgroup
        self._engine: subprocess.Popen[bytes] | None = None
        mounts = ["nsenter", "--target", str(mounts_of.pid), "--mount", "--wdns=/", "--"] if mounts_of else []
        unshare = [*mounts, "unshare", *_NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(
            [*unshare, sys.executable, str(_INIT), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.pid: int = only_child(self._holder.pid)
        """Of its first process."""

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on this machine."""
        return ["nsenter", "--target", str(self.pid), *_NAMESPACES, "--wdns=/", "--", *command]

    def run(self, *command: str) -> str:
        """Runs a command on this machine; gives what it printed."""
        return _output(self.inside(command))

    def docker(self, *arguments: str) -> str:
        """Asks its engine, with the command line's client; gives what it printed."""
        return _output(["docker", "-H", self.engine, *arguments])

    def lose_way_to(self, address: str) -> None:
        """Nothing gets from here to this address any more."""
        self.run("ip", "route", "add", "blackhole", address)

    def find_way_to(self, address: str) -> None:
        """It is reached again."""
        self.run("ip", "route", "del", "blackhole", address)

    def path(self, path: str) -> Path:
        """Where a file of this machine, under /run or /var/lib, is seen from outside."""
        for own, point in (("run", "/run/"), ("lib", "/var/lib/")):
            if path.startswith(point):
                return self.folder / own / path.removeprefix(point)
        raise ValueError(f"{path} is no path of the machine's own")

    def start_engine(self) -> None:
        """Starts its engine, and waits until it answers."""
        log = self.folder / "engine.log"
        # In namespaces of its own: no other engine's bridge or rules are met.
        command = ["dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--live-restore=false"]
        command += ["--cgroup-parent", f"/{self._cgroup}"]
        with log.open("ab") as file:
            self._engine = subprocess.Popen(self.inside(command), stdout=file, stderr=file)
        give_up = time.monotonic() + WITHIN_S
        while subprocess.run(["docker", "-H", self.engine, "version"], capture_output=True).returncode:
            assert self._engine.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < give_up, log.read_text()[-4000:]
            time.sleep(_PAUSE_S)

    def stop_engine(self) -> None:
        """Stops it as a service manager does."""
        self._end_engine("TERM")

    def kill_engine(self) -> None:
        """SIGKILL, as a crash: it ends none of its containers."""
        self._end_engine("KILL")
        containerd = self.path("/run/docker/containerd/containerd.pid")
        pid = containerd.read_text()
        self.run("sh", "-c", f"while kill -0 {pid} 2>/dev/null; do sleep 0.05; done")  # it ends with its parent
        containerd.unlink()  # another process may have that number when the next one looks

    def close(self) -> None:
        """Ends it, and waits until nothing of it runs."""
        if self._holder.returncode is None:
            for stream in (self._holder.stdin, self._holder.stdout):
                assert stream is not None
                stream.close()
            # Its input has ended; but nothing that went wrong inside may keep it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self._holder.wait(WITHIN_S)
        if self._engine is not None:
            self._engine.wait(WITHIN_S)

    def _end_engine(self, signal: str) -> None:
        assert self._engine is not None
        self.run("kill", f"-{signal}", self.path("/run/docker.pid").read_text())
        self._engine.wait(WITHIN_S)


class Machines:
    """Machines and the switch between them. The machine that the tests run on has an address there too, `address`."""

    def __init__(self) -> None:
        self.name = f"cy{uuid.uuid4().hex[:6]}"
        self._folder = Path(tempfile.mkdtemp(prefix="cy"))
        self._images = self._folder / "images"
        """Where engines' images are: in memory, seen by machines alone."""
        self._images.mkdir()
        self._network = _free_network()
        self._hosts = self._network.hosts()
        self._cables: dict[str, str] = {}
        self._made: list[Machine] = []
        self.machines: list[Machine] = []
        """Those that were added."""
        self.address = str(next(self._hosts))
        self._switch = Machine("switch", "", self._folder / "switch", self.name)
        try:
            self._switch.run("mount", "-t", "tmpfs", "images", str(self._images))
            self._switch.run("ip", "link", "add", "bridge", "type", "bridge")
            self._switch.run("ip", "link", "set", "bridge", "up")
            self._plug("tests", self.address, None)
        except BaseException:
            self.close()
            raise

    def add(self, name: str = "") -> Machine:
        """A machine more, joined to the switch, without an engine yet. Without a name it is called by its address."""
        address = str(next(self._hosts))
        machine = self._machine(name or address, address)
        self._plug(machine.name, address, machine)
        self.machines.append(machine)
        return machine

    def add_address(self) -> str:
        """One more of the machine that the tests run on, for what is to be out of reach by itself."""
        address = str(next(self._hosts))
        _output(["ip", "address", "add", f"{address}/{self._network.prefixlen}", "dev", f"{self.name}e0"])
        return address

    def prepare_images(self, *images: str) -> None:
        """Takes images over from the usual engine, for all engines that are started on machines from now on."""
        maker = self._machine("maker", "")
        maker.run("mount", "--bind", str(self._images), "/var/lib")
        maker.start_engine()
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "-H", maker.engine, "load", "-q"], stdin=saved.stdout, check=True)
        assert saved.returncode == 0
        maker.stop_engine()
        maker.close()

    def start_engine(self, machine: Machine) -> None:
        """Starts a machine's engine for the first time, with the images that were prepared."""
        prepared = Path(f"/proc/{self._switch.pid}/root{self._images}/docker")
        if prepared.exists():
            data = machine.path("/var/lib/docker")
            shutil.copytree(prepared, data, symlinks=True, ignore=_layers)
            # Where these are no mount points, the engine makes them, and what was mounted below would be hidden.
            for folder in ("/var/lib/docker", "/var/lib/docker/overlay2"):
                machine.run("mount", "--bind", folder, folder)
            # An engine only reads its images' layers, so all have the same ones; and nobody's mistake writes to them.
            for layer in (prepared / "overlay2").glob("*/diff"):
                own = layer.relative_to(prepared)
                (data / own).mkdir()
                source, point = self._images / "docker" / own, Path("/var/lib/docker") / own
                machine.run("mount", "--bind", "--options", "ro", str(source), str(point))
        machine.start_engine()

    def cut(self, machine: Machine) -> None:
        """Nothing gets to a machine or from it any more, and nobody is told."""
        self._switch.run("ip", "link", "set", self._cables[machine.name], "nomaster")

    def join(self, machine: Machine) -> None:
        """It is reached again."""
        self._switch.run("ip", "link", "set", self._cables[machine.name], "master", "bridge")

    def close(self) -> None:
        """Ends all machines and removes what is left of them."""
        for machine in (*self._made, self._switch):
            machine.close()
        for group in _control_groups(self.name):
            _remove_group(group)
        shutil.rmtree(self._folder)

    def _machine(self, name: str, address: str) -> Machine:
        machine = Machine(name, address, self._folder / name, self.name, mounts_of=self._switch)
        self._made.append(machine)
        return machine

    def _plug(self, name: str, address: str, machine: Machine | None) -> None:
        """A cable from the switch to a machine, or to the one that the tests run on."""
        port, end = f"{self.name}p{len(self._cables)}", f"{self.name}e{len(self._cables)}"
        self._cables[name] = port
        on_switch = ["name", port, "netns", str(self._switch.pid)]
        elsewhere = ["netns", str(machine.pid)] if machine else []
        _output(["ip", "link", "add", *on_switch, "type", "veth", "peer", "name", end, *elsewhere])
        self._switch.run("ip", "link", "set", port, "master", "bridge", "up")
        for command in (
            ["ip", "address", "add", f"{address}/{self._network.prefixlen}", "dev", end],
            ["ip", "link", "set", end, "up"],
        ):
            _output(machine.inside(command) if machine else command)


def _layers(folder: str, names: list[str]) -> list[str]:
    """What is not copied: the content of layers, and what each engine makes of its own."""
    return ["diff"] if Path(folder).parent.name == "overlay2" else ["backingFsBlockDev", "engine-id"]


def only_child(pid: int) -> int:
    """Of a process that has entered a machine: the one that it started there."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * WITHIN_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def _free_network() -> IPv4Network:
    """A network of 254 addresses that no interface or route of this machine has."""
    taken = [ip_network(line.split()[0]) for line in _output(["ip", "-4", "route"]).splitlines() if "/" in line[:18]]
    while True:
        network = IPv4Network((0x0A400000 + (random.randrange(1 << 14) << 8), 24))
        if not any(network.overlaps(each) for each in taken):
            return network


def _control_groups(name: str) -> Iterator[Path]:
    for place in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
        if (place / name).is_dir() and not place.is_symlink():
            yield place / name


def _remove_group(group: Path) -> None:
    for each in group.iterdir():
        if each.is_dir():
            _remove_group(each)
    give_up = time.monotonic() + WITHIN_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:  # a process that has ended leaves its group a little later
            if time.monotonic() > give_up:
                raise
            time.sleep(_PAUSE_S)
