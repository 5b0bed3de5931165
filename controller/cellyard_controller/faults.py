"""Points at which a test can kill the controller: what a crash there leaves has to be shown, not argued.

Armed by CELLYARD_FAULT=NAME, or NAME:N for the Nth time that the point is passed; without it a point does nothing.
"""

from __future__ import annotations

import os
import signal

_name, _, _count = os.environ.get("CELLYARD_FAULT", "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Dies here as by SIGKILL, where this point is armed."""
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
