"""Embeddings by the content of their texts: computed once, kept in memory, and in a folder where one is named."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

IN_MEMORY = 20_000
"""Embeddings; 30 MB of those with 384 numbers."""
IN_FOLDER = 20_000
"""Files, at most. Past it the oldest tenth is removed."""

_ENDING = ".f32"


class Embeddings:
    """Rows for texts. May be used from several threads; several processes may share a folder."""

    def __init__(
        self,
        encode: Callable[[Sequence[str]], Array],
        identity: str,
        folder: str | os.PathLike[str] | None = None,
        *,
        in_memory: int = IN_MEMORY,
        in_folder: int = IN_FOLDER,
    ) -> None:
        """`identity`: changes with the model. Without one nothing goes to the folder, which outlives the model."""
        self._encode = encode
        self._salt = identity.encode()
        self._in_memory = in_memory
        self._kept: OrderedDict[str, Array] = OrderedDict()
        self._lock = threading.Lock()
        self._folder = _Folder(Path(folder), in_folder) if folder is not None and identity else None

    def of(self, texts: Sequence[str]) -> Array:
        """A row for each text. What is not known yet is encoded in one go."""
        import numpy as np

        keys = [hashlib.sha256(self._salt + b"\0" + text.encode()).hexdigest() for text in texts]
        found: dict[str, Array] = {}
        missing: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            row = self._known(key)
            if row is not None:
                found[key] = row
            else:
                missing[key] = text
        if missing:
            # The model is asked while nothing is held: those who find what they need do not wait for it.
            for key, row in zip(missing, self._encode(list(missing.values())), strict=True):
                found[key] = row
                self._keep(key, row)
                if self._folder is not None:
                    self._folder.write(key, row)
        width = max(len(row) for row in found.values())
        zero = np.zeros(width, dtype=np.float32)  # stands for a file that is of another model after all
        return np.stack([found[key] if len(found[key]) == width else zero for key in keys])

    def _known(self, key: str) -> Array | None:
        with self._lock:
            row = self._kept.get(key)
            if row is not None:
                self._kept.move_to_end(key)
                return row
        row = self._folder.read(key) if self._folder is not None else None
        if row is not None:
            self._keep(key, row)
        return row

    def _keep(self, key: str, row: Array) -> None:
        with self._lock:
            self._kept[key] = row
            while len(self._kept) > self._in_memory:
                self._kept.popitem(last=False)


class _Folder:
    """A file for each embedding. It is a cache: what cannot be read or written is computed again."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._lock = threading.Lock()
        self._files = most  # counted before the first is written

    def read(self, key: str) -> Array | None:
        import numpy as np

        try:
            content = (self._path / (key + _ENDING)).read_bytes()
        except OSError:
            return None
        if not content or len(content) % 4:
            return None
        row = np.frombuffer(content, dtype="<f4").astype(np.float32)
        length = float(np.linalg.norm(row))
        # A row has length 1, or is all zeros: anything else was damaged.
        return row if length == 0 or abs(length - 1) < 1e-3 else None

    def write(self, key: str, row: Array) -> None:
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room()
            descriptor, draft = tempfile.mkstemp(dir=self._path, prefix=".new-")
            try:
                with open(descriptor, "wb") as file:
                    file.write(row.astype("<f4").tobytes())
                os.replace(draft, self._path / (key + _ENDING))
            except BaseException:
                os.unlink(draft)
                raise
        except OSError:
            pass  # a full or a read-only disk costs time, and nothing else

    def _make_room(self) -> None:
        with self._lock:
            self._files += 1
            if self._files <= self._most:
                return
            # Others may have written and removed meanwhile.
            files = [(entry.stat().st_mtime_ns, entry.path) for entry in os.scandir(self._path)]
            if len(files) >= self._most:
                files.sort()
                for _, path in files[: len(files) - self._most + max(1, self._most // 10)]:
                    try:
                        os.unlink(path)
                    except FileNotFoundError:
                        pass
            self._files = sum(1 for _ in os.scandir(self._path)) + 1
