"""Reads an operator's requirements and pins them: names and versions alone, as for environments that clients define."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from cellyard_controller.custom_images.errors import BadInput
from cellyard_controller.environments.fetching import cause_of
from cellyard_controller.environments.reading import read_requirement
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.runtimes.docker.building import ImageBuildFailed

_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
_COMMENT = re.compile(r"(^|\s)#.*$")
_PIN = re.compile(r"^([a-z0-9._-]+==[^ \\]+)", re.MULTILINE)
_WITHIN = 600.0
_DRAWN = " \u2570\u2500\u25b6\u00d7"
"""What uv draws around its sentences."""


@dataclass(frozen=True, slots=True)
class Target:
    """What packages are for."""

    python: str
    """Like 3.11."""
    platform: str
    """By uv's name: x86_64-manylinux_2_36."""


def read(text: str, name: str) -> list[str]:
    """The requirements of a file of this name, each in the one way to spell it, with its hashes. Raises BadInput."""
    found = []
    for number, line in _joined(text):
        where = f"{name}, line {number}"
        words = line.split()
        hashes = [word for word in words if word.startswith("--hash")]
        wrong = next((each for each in hashes if not _HASH.fullmatch(each)), None)
        if wrong is not None:
            raise BadInput(f"{where}: {wrong[:80]!r} is no hash: --hash=sha256: and 64 digits")
        bare = " ".join(word for word in words if word not in hashes)
        if " --" in f" {bare}":
            raise BadInput(f"{where}: {bare[:80]!r} has an option: only names, versions and --hash can stand here")
        try:
            found.append(" ".join([read_requirement(where, bare), *hashes]))
        except InvalidRequest as refused:
            raise BadInput(refused.message) from None
    return found


def pin(requirements: Iterable[str], target: Target, there: str, index: str) -> str:
    """A lock with hashes of these and all that they need, less what is there already.

    `there`: the lock of what the image has, whose versions are kept where they fit. Raises ImageBuildFailed.
    """
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder, "requirements.lock")
        lock.write_text(there)
        command = [find_uv_bin(), "pip", "compile", "--quiet", "--color", "never", "--no-python-downloads"]
        command += [
            "--generate-hashes",
            "--no-header",
            "--no-annotate",
            "--no-emit-index-url",
            "--only-binary",
            ":all:",
        ]
        command += ["--python-version", target.python, "--python-platform", target.platform]
        command += ["--output-file", str(lock), "-"]
        # Not an argument: those are for every user of the machine to see.
        env = {**os.environ, "UV_DEFAULT_INDEX": index} if index else None
        try:
            done = subprocess.run(
                command,
                env=env,
                input="".join(f"{each}\n" for each in requirements),
                capture_output=True,
                text=True,
                timeout=_WITHIN,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ImageBuildFailed(
                f"the requirements could not be resolved in {_WITHIN:.0f} s: is the index slow?"
            ) from None
        if done.returncode != 0:
            lines = [line.strip(_DRAWN) for line in done.stderr.splitlines() if line.strip()]
            raise ImageBuildFailed(
                f"the requirements cannot be had: {cause_of(done.stderr) or ' '.join(lines)[:700] or 'uv failed'}"
            )
        known = set(_PIN.findall(there))
        return "".join(entry for pinned, entry in _entries(lock.read_text()) if pinned not in known)


def pins(lock: str) -> list[str]:
    """What a lock pins, like tiny==1.0."""
    return _PIN.findall(lock)


def _entries(lock: str) -> Iterator[tuple[str, str]]:
    """Each pin of a lock with all of its lines."""
    for entry in re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE):
        if found := _PIN.match(entry):
            yield found[1], entry


def _joined(text: str) -> Iterator[tuple[int, str]]:
    begun, whole = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        begun = begun or number
        part = _COMMENT.sub("", line).rstrip()
        whole += f" {part.removesuffix(chr(92))}"
        if part.endswith("\\"):
            continue
        if whole.strip():
            yield begun, whole.strip()
        begun, whole = 0, ""
    if whole.strip():
        yield begun, whole.strip()
