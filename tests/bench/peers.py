"""Other programs to compare with: each in a virtual environment of its own, told what to do line by line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_ENVIRONMENTS = _HERE.parents[1] / ".cache" / "peers"


class Peer:
    """A script that carries out one command a line and answers with a line of JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, command: str) -> Any:
        """Has something done; returns what the script says of it, usually seconds."""
        ask, answer = self._process.stdin, self._process.stdout
        assert ask is not None
        assert answer is not None
        ask.write(f"{command}\n")
        ask.flush()
        line = answer.readline()
        assert line, f"{command!r} ended the peer"
        return json.loads(line)


@contextmanager
def running(command: list[str]) -> Iterator[Peer]:
    """A peer, from its first line ("ready") to the end of its input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline()) == "ready"
            yield Peer(process)
        finally:
            process.stdin.close()


@contextmanager
def installed(name: str, requirements: list[str], *arguments: str) -> Iterator[Peer]:
    """The script `peer_NAME.py`, in an environment that has these and nothing of ours."""
    environment = _ENVIRONMENTS / name
    done = environment / "done"
    if not done.exists() or done.read_text() != str(requirements):
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True)
        done.write_text(str(requirements))
    with running([str(environment / "bin" / "python"), str(_HERE / f"peer_{name}.py"), *arguments]) as peer:
        yield peer
