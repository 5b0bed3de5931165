"""Documents that cannot be read: kept as files under their own names, so that nothing of them is lost.

The stored chunks stay where they are as well; a file is what somebody can take away and try to repair. Its name is
`<key>-<notebook id, as far as it is plain>-<hash of the content>.automerge`.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cellyard_controller.ids import NotebookId, NotebookKey

FOLDER = "damaged"
"""In the data folder."""
_LONGEST_ID = 80
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")


def keep(data: Path, key: NotebookKey, notebook_id: NotebookId, chunks: list[bytes]) -> Path:
    """Writes what is stored of a document to its file, once, and returns the file. Blocks; raises OSError."""
    content = b"".join(chunks)
    plain = _NOT_PLAIN.sub("_", notebook_id)[:_LONGEST_ID]
    path = data / FOLDER / f"{key}-{plain}-{hashlib.sha256(content).hexdigest()[:12]}.automerge"
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    partly = path.with_suffix(".part")
    with open(os.open(partly, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partly.rename(path)
    return path


def forget(data: Path, key: NotebookKey) -> None:
    """Removes the files of a notebook that was deleted. Blocks; raises OSError."""
    for path in (data / FOLDER).glob(f"{key}-*"):
        path.unlink(missing_ok=True)


def kept(data: Path) -> list[Path]:
    """What is set aside now. Blocks."""
    return sorted((data / FOLDER).glob("*.automerge"))
