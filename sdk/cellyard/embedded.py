"""Starts the user's own controller where none runs.

A lock beside the socket lets one process start it while others wait; the controller lives in a session of its
own, writes its log into the state folder, and ends by itself when nobody has used it for a while. This module
blocks: the async flavour calls it in a worker thread, and only when a controller has to be started.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cellyard.endpoint import Endpoint, check_folder, listening, state_dir
from cellyard.errors import ControllerUnavailable

START_DEADLINE_S = 60.0
LINGER_S = 900
"""The controller ends after this long without session, unfinished execution or live kernel."""

# The extra `controller` brings these; the controller's own package is there without it.
_NEEDED = ("cellyard_controller", "automerge", "docker", "pydantic_settings", "sqlalchemy", "structlog")


def ensure(endpoint: Endpoint, deadline_s: float = START_DEADLINE_S) -> None:
    """Returns when somebody listens on the user's own socket, starting the controller where nobody does.

    Raises ControllerUnavailable when it cannot be started, PermissionDenied when the folder is not the user's own.
    """
    path = endpoint.socket
    assert path is not None, "only a unix socket is a user's own"
    try:
        state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)  # first: the socket may lie in it
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_folder(path.parent)
        if listening(path):
            return
        with _starter_lock(path):
            if not listening(path):
                _start(path, deadline_s)
    except OSError as error:
        raise _unusable(endpoint, error) from error


def running(endpoint: Endpoint) -> bool:
    """Whether somebody listens on the user's own socket, in a folder that only the user can enter.

    Raises ControllerUnavailable when it cannot be told, PermissionDenied when the folder is not the user's own.
    """
    assert endpoint.socket is not None, "only a unix socket is a user's own"
    try:
        check_folder(endpoint.socket.parent)
        return listening(endpoint.socket)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(endpoint, error) from error


def _unusable(endpoint: Endpoint, error: OSError) -> ControllerUnavailable:
    return ControllerUnavailable(
        f"the controller's socket {endpoint.socket} cannot be used: {error.strerror or error}",
        details={"endpoint": endpoint.name},
    )


def missing_extra() -> str | None:
    """What of the controller is not installed; None where all is there."""
    return next((name for name in _NEEDED if importlib.util.find_spec(name) is None), None)


@contextmanager
def _starter_lock(path: Path) -> Iterator[None]:
    # Not the controller's own lock: whoever starts it holds this one while the controller takes that one.
    # The wait is bounded by the holder's deadline; a holder that dies lets go.
    with open(f"{path}.starting", "w") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        yield


def _start(path: Path, deadline_s: float) -> None:
    missing = missing_extra()
    if missing is not None:
        raise ControllerUnavailable(
            f"no controller runs and none can be started, {missing} is not installed:"
            ' `pip install "cellyard[controller]"`, or name one with CELLYARD_ENDPOINT'
        )
    data = state_dir()
    log = data / "controller.log"
    ready, told = os.pipe()
    try:
        try:
            with open(log, "ab") as output:
                start = output.tell()
                child = _Detached(
                    _command(path, data, told),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(told,),
                    cwd="/",
                )
        finally:
            os.close(told)
        failure = _wait_ready(ready, deadline_s)
    finally:
        os.close(ready)
    if failure is not None:
        child.terminate()
        raise ControllerUnavailable(
            f"the controller did not start, it {failure}: {_last_line(log, start)} (log: {log})", retryable=True
        )


def _command(path: Path, data: Path, ready_fd: int) -> Sequence[str]:
    options = {
        "--listen": f"unix:{path}",
        "--data": os.fspath(data),
        "--runtime": "docker,process",
        "--linger": str(LINGER_S),
        "--ready-fd": str(ready_fd),
    }
    serve = [sys.executable, "-m", "cellyard_controller", "serve"]
    return [*serve, *(part for option in options.items() for part in option)]


def _wait_ready(fd: int, deadline_s: float) -> str | None:
    """Waits for "ready\\n"; says what happened instead, or None."""
    deadline = time.monotonic() + deadline_s
    said = b""
    while not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return f"was not ready within {deadline_s:g} s"
        chunk = os.read(fd, 256)
        if not chunk:
            return "ended"
        said += chunk
    return None if said == b"ready\n" else f"said {said!r}"


def _last_line(log: Path, start: int) -> str:
    with open(log, "rb") as text:
        text.seek(start)
        lines = text.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else "it left no word in its log"


class _Detached(subprocess.Popen[bytes]):
    """A process that is meant to outlive this one, so leaving it behind is worth no warning."""

    def __del__(self) -> None:
        pass
