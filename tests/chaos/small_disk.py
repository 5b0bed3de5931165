"""A small ext4 filesystem of one's own, which a test may fill. Needs root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOP_MAJOR = 7
_LOOP_DEVICES = 8


class SmallDisk:
    """A mounted filesystem and the file that fills it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Leaves no block free: files can get no larger. Again: takes what has become free since."""
        with self._filler.open("ab", buffering=0) as filler:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError as full:
                    if full.errno != errno.ENOSPC:
                        raise
            os.fsync(filler.fileno())

    def clear(self) -> None:
        """There is room again."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[SmallDisk]:
    """Mounts one below `folder`."""
    for number in range(_LOOP_DEVICES):  # in a container they may not be there
        device = Path(f"/dev/loop{number}")
        if not device.exists():
            os.mknod(device, 0o660 | 0o060000, os.makedev(_LOOP_MAJOR, number))
    image, path = folder / "disk.img", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", path], check=True)  # a container's mount may still be going
