"""How a command ends: its exit code, and one sentence on stderr where it could not do what it was asked."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from cellyard import errors
from cellyard.cli.printing import visible
from cellyard.codemode.errors import StorageError

DONE = 0
CODE_FAILED = 1
USAGE = 2
NO_CONTROLLER = 3
REFUSED = 4
TIMED_OUT = 124
INTERRUPTED = 130
TERMINATED = 143

_CODES: tuple[tuple[type[errors.CellyardError], int], ...] = (
    (errors.ExecutionTimeout, TIMED_OUT),
    (errors.ControllerUnavailable, NO_CONTROLLER),
    (errors.CapabilityUnavailable, REFUSED),
    (errors.EnvironmentFailed, REFUSED),
    (errors.KernelMismatch, REFUSED),
    (errors.NoKernel, REFUSED),
    (errors.PermissionDenied, REFUSED),
    (errors.QuotaExceeded, REFUSED),
    (errors.Unauthenticated, REFUSED),
    (StorageError, REFUSED),
    (errors.InvalidRequest, USAGE),
    (errors.NotebookNotFound, USAGE),
    (errors.CellNotFound, USAGE),
    (errors.ExecutionNotFound, USAGE),
)


def exit_code(error: errors.CellyardError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), CODE_FAILED)


def say(message: str) -> None:
    """Our own text goes to stderr; stdout belongs to the code that runs."""
    sys.stderr.write(sentence(message))


def sentence(message: str) -> str:
    """Our own text as it is printed. It may quote what others have written."""
    return f"cellyard: {visible(message, lines=True)}\n"


def end(code: int, message: str = "") -> NoReturn:
    """Ends the command."""
    if message:
        say(message)
    raise typer.Exit(code)


@contextmanager
def sentences() -> Iterator[None]:
    """Turns every error of the SDK into a sentence and an exit code; SIGTERM ends as orderly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except _Terminated:
        end(TERMINATED)
    except errors.CellyardError as error:
        end(exit_code(error), str(error))
    except KeyboardInterrupt:
        end(INTERRUPTED, "interrupted")
    finally:
        signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM came. Whoever handles an interrupt handles it too."""


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise _Terminated
