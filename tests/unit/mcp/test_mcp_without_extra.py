"""`cellyard mcp` where the extra is not installed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys

sys.modules["mcp"] = None
from cellyard.cli import main

sys.exit(main())
"""


def test_the_command_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "mcp"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert 'pip install "cellyard[mcp]"' in done.stderr
    assert "Traceback" not in done.stderr
