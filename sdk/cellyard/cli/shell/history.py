"""What was typed into the shell, kept for the user alone: a file of mode 0600, and of bounded length."""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from cellyard.cli import outcome
from cellyard.endpoint import state_dir

KEPT = 1000
"""So many entries stay, the last ones."""
LONGEST = 100_000
"""Characters. What is longer is not kept: it was pasted, and can be again."""


class BoundedHistory(FileHistory):
    """prompt_toolkit's history in a file; cut to the last entries when it is opened."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the file cannot be the user's own."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
        finally:
            os.close(file)
        super().__init__(str(path))
        entries = list(self.load_history_strings())  # the newest first
        if len(entries) > 2 * KEPT:
            self._replace(path, entries[KEPT - 1 :: -1])

    def store_string(self, string: str) -> None:
        """Adds what was typed."""
        if len(string) <= LONGEST:
            super().store_string(string)

    def _replace(self, path: Path, entries: list[str]) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}")
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        cut = FileHistory(str(part))
        for entry in entries:
            cut.store_string(entry)
        part.replace(path)


def opened() -> History:
    """The user's history; where it cannot be kept, one of this shell alone."""
    path = state_dir() / "shell_history"
    try:
        return BoundedHistory(path)
    except OSError as error:
        outcome.say(f"the history {path} cannot be kept: {error.strerror}")
        return InMemoryHistory()
