"""Kernelspecs, by which front ends find the provisioner: written, listed and removed."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

from cellyard.errors import InvalidRequest
from cellyard.jupyter.settings import KERNELS, Settings

PROVISIONER = "cellyard-provisioner"
_NAME = re.compile(r"[a-z0-9._-]{1,100}")
_TITLES = {"python": "Python", "deno": "Deno"}


@dataclass(frozen=True, slots=True)
class Installed:
    """A kernelspec of ours."""

    name: str
    display_name: str
    folder: str
    config: dict[str, Any]


def kernel_json(settings: Settings, display_name: str = "") -> dict[str, Any]:
    """The content of a kernel.json. Nothing in it is secret."""
    return {
        "argv": [],  # there is no program to start
        "display_name": display_name or f"{_TITLES[settings.kernel]} (Cellyard)",
        "language": KERNELS[settings.kernel],
        "interrupt_mode": "message",
        "metadata": {
            "debugger": False,
            "kernel_provisioner": {"provisioner_name": PROVISIONER, "config": settings.config()},
        },
    }


def install(name: str, content: dict[str, Any], *, user: bool, prefix: str | None) -> str:
    """Writes a kernelspec, in place of one of this name; returns its folder.

    `user`: among the user's own; else below `prefix`. Raises InvalidRequest where it cannot be written.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"a kernelspec's name has a-z, 0-9, '.', '_' and '-', not {name[:100]!r}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        Path(folder).chmod(0o755)  # which goes along
        try:
            return str(KernelSpecManager().install_kernel_spec(folder, name, user=user, prefix=prefix))
        except OSError as failed:
            raise InvalidRequest(
                f"the kernelspec {name} cannot be written: {failed}; --user or --prefix name another place"
            ) from None


def installed() -> list[Installed]:
    """Ours that front ends find, by name."""
    found = []
    for name, folder in sorted(KernelSpecManager().find_kernel_specs().items()):
        try:
            content = json.loads(Path(folder, "kernel.json").read_text("utf-8"))
            provisioner = content["metadata"]["kernel_provisioner"]
            if provisioner["provisioner_name"] == PROVISIONER:
                config = dict(provisioner.get("config") or {})
                found.append(Installed(name, str(content.get("display_name", "")), folder, config))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another's, or none at all
    return found


def remove(names: list[str]) -> list[Installed]:
    """Removes those of ours that are named, all where none is. Raises InvalidRequest for one that is not there."""
    ours = installed()
    missing = sorted(set(names) - {each.name for each in ours})
    if missing:
        raise InvalidRequest(f"there is no kernelspec of Cellyard's named {', '.join(missing)}")
    gone = [each for each in ours if not names or each.name in names]
    for each in gone:
        try:
            shutil.rmtree(each.folder)
        except OSError as failed:
            raise InvalidRequest(f"the kernelspec {each.name} cannot be removed: {failed}") from None
    return gone
