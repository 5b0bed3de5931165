"""The settings of a sandbox's container, as the engine's API takes them (POST /containers/create).

One pure function, so that everything that confines a sandbox stands on one page and can be compared with what
a probe finds inside (canary.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cellyard_controller.runtimes import ENVIRONMENT, SandboxSpec, Template

HOME = "/home/sandbox"
LINK = "/run/cellyard"
SHM = "/dev/shm"
CONTROLLER_LABEL = "cellyard.controller"
SANDBOX_LABEL = "cellyard.sandbox"
TEMPLATE_LABEL = "cellyard.template"

OPEN_NETWORK = "cellyard-open"
"""The engine's network of sandboxes with the policy open. They do not reach one another there."""
NOFILE = 4096
"""Open files of one process."""
_BYTES_AN_INODE = 8192
_CPU_PERIOD_NS = 1_000_000_000


def container_name(sandbox_id: str) -> str:
    """The container's name: it can be found where the engine never told its id."""
    return f"cellyard-{sandbox_id}"


def file_size_limit(template: Template) -> int:
    """Bytes of one file: no more than all that is writable. Sparse files would claim any size otherwise."""
    return template.home_bytes + template.tmp_bytes + template.shm_bytes


def container_settings(
    spec: SandboxSpec, image: str, *, seccomp: str, private_cgroups: bool, command: Sequence[str] = ()
) -> dict[str, Any]:
    """The body of the create request. `seccomp` is a profile's text. An empty `command` means the image's own."""
    template = spec.template
    settings: dict[str, Any] = {
        "Image": image,
        "User": f"{spec.uid}:{spec.uid}",
        "Hostname": "sandbox",
        "WorkingDir": HOME,
        "Env": [f"HOME={HOME}", "USER=sandbox", "LOGNAME=sandbox"],
        "Labels": {
            CONTROLLER_LABEL: spec.controller_id,
            SANDBOX_LABEL: spec.sandbox_id,
            TEMPLATE_LABEL: template.name,
        },
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # an image's own would be an exec into the sandbox, again and again
        "HostConfig": _host_config(spec, seccomp, private_cgroups),
    }
    if command:
        settings["Cmd"] = list(command)
    return settings


def _host_config(spec: SandboxSpec, seccomp: str, private_cgroups: bool) -> dict[str, Any]:
    template = spec.template
    config: dict[str, Any] = {
        "NetworkMode": OPEN_NETWORK if template.network == "open" else "none",
        "CapDrop": ["ALL"],
        "CapAdd": [],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp}"],
        "Privileged": False,
        "ReadonlyRootfs": True,
        "Tmpfs": {
            # Programs in the home may be run: packages with compiled parts are installed there.
            HOME: _tmpfs(template.home_bytes, "exec", "mode=0700", f"uid={spec.uid}", f"gid={spec.uid}"),
            "/tmp": _tmpfs(template.tmp_bytes, "noexec", "mode=1777"),
            # In place of the engine's, whose inodes nothing bounds.
            SHM: _tmpfs(template.shm_bytes, "noexec", "mode=1777"),
        },
        "Mounts": [
            _mount(spec.link_dir, LINK),
            *([_mount(spec.environment, ENVIRONMENT)] if spec.environment is not None else []),
        ],
        "Memory": template.memory_bytes,
        "MemorySwap": template.memory_bytes,  # memory and swap together: no swap
        "NanoCpus": int(template.cpus * _CPU_PERIOD_NS),
        "PidsLimit": template.pids,
        "Ulimits": [
            _ulimit("nofile", NOFILE),
            _ulimit("core", 0),
            _ulimit("fsize", file_size_limit(template)),
        ],
        "IpcMode": "private",
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",  # the engine's own choice: never the host's where the engine has user namespaces
        # Compression cannot be had with a single file, and a second one would double the space.
        "LogConfig": {"Type": "local", "Config": {"max-size": "1m", "max-file": "1", "compress": "false"}},
        "AutoRemove": False,  # the exit code and reason are still wanted
        "RestartPolicy": {"Name": "no"},
        "Init": False,  # the agent is PID 1
    }
    if template.network != "open":
        # Nobody can be asked there, and the engine would write the host's own servers and domains into the file.
        config |= {"Dns": ["127.0.0.1"], "DnsSearch": ["."]}
    if private_cgroups:
        config["CgroupnsMode"] = "private"
    if template.oci_runtime:
        config["Runtime"] = template.oci_runtime
    return config


def _mount(source: Path, target: str) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(source),
        "Target": target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _tmpfs(size: int, *more: str) -> str:
    # Inodes are memory too, and empty files would take it without counting against the size.
    inodes = max(1024, size // _BYTES_AN_INODE)
    return ",".join(("rw", "nosuid", "nodev", f"size={size}", f"nr_inodes={inodes}", *more))


def _ulimit(name: str, limit: int) -> dict[str, str | int]:
    return {"Name": name, "Soft": limit, "Hard": limit}
