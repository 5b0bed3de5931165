"""Which system calls sandboxes may make: our own profile (images/seccomp), as the engine takes it."""

from __future__ import annotations

import hashlib
import json

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker.images import images_folder


def profile() -> str:
    """The profile as text of one line. Raises RuntimeFailed where it is missing or none: nothing starts without."""
    path = images_folder() / "seccomp" / "profile.json"
    try:
        found = json.loads(path.read_text())
        if found["defaultAction"] != "SCMP_ACT_ERRNO":
            raise ValueError("it refuses nothing by default")
    except (OSError, ValueError, KeyError, TypeError) as bad:
        raise RuntimeFailed("start_failed", f"{path} is no seccomp profile: {bad}. Install cellyard again") from bad
    return json.dumps(found, separators=(",", ":"))


def digest(text: str) -> str:
    """A short name of a profile, by its content."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
