"""A small ext4 filesystem of one's own, which a test may fill. Needs root."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOOP_MAJOR = 7
_LOOP_DEVICES = 8


class SmallDisk:
    """A mounted filesystem and the file that fills it."""

    def __init__(self, image: Path, path: Path) -> None:
        self.path = path
        self._image = image
        self._filler = path / "filler"

    @contextmanager
    def after_loss_of_power(self, folder: Path) -> Iterator[SmallDisk]:
        """What would be there if the power failed now, mounted below another folder.

        What was written and not synced is in the kernel's memory alone, and not in the image. This has everything that
        the disk was given, so it says nothing about disks that lose what they have confirmed.
        """
        image, path = folder / "disk.img", folder / "disk"
        shutil.copyfile(self._image, image)
        with _mounted(image, path):
            yield SmallDisk(image, path)

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
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    with _mounted(image, path):
        yield SmallDisk(image, path)


@contextmanager
def _mounted(image: Path, path: Path) -> Iterator[None]:
    path.mkdir()
    # commit: the filesystem itself syncs so many seconds after a write, far beyond a test's end.
    subprocess.run(["mount", "-o", "loop,commit=300", image, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)  # a container's mount may still be going
