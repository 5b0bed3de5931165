"""Environments on disk: DATA/environments/TENANT/NAME, each complete or not there at all.

One is made in a folder of another name and renamed once it is whole. `ready.json` in it says what it holds, so that one
that was damaged since is found out before it is used. Beside them, `uses` has a file for each sandbox that has one
mounted, so that none is removed under a kernel, whichever controller started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NewType

from cellyard_controller.ids import SandboxId, TenantName

EnvironmentKey = NewType("EnvironmentKey", str)
"""Whose, and which: TENANT/NAME below the shelf's folder; "" for none."""
_PART = ".part-"
_READY = "ready.json"
_SITE = "site"
_USES = "uses"
CONDA_META = "conda-meta"
"""The folder by which an environment of conda's, which brings its interpreter, is told from a folder of modules."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One that is there."""

    key: EnvironmentKey
    size: int
    used_at: float
    """When it was asked for last, in seconds since the epoch."""


def key_of(tenant: TenantName, name: str) -> EnvironmentKey:
    """A tenant's environment of this name. Tenants are told apart by digest: their names are no paths."""
    return EnvironmentKey(f"{hashlib.sha256(tenant.encode()).hexdigest()[:16]}/{name}")


class Shelf:
    """The environments of one data folder. Its calls touch files, and belong into threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self, living: Collection[SandboxId]) -> None:
        """At the controller's start: forgets what was half made, and uses of sandboxes that are gone."""
        for part in self._folder.glob(f"*/{_PART}*"):
            _remove(part)
        for use in self._uses():
            if use.name not in living:
                use.unlink(missing_ok=True)

    def site(self, key: EnvironmentKey) -> Path:
        """What a sandbox mounts."""
        return self._folder / key / _SITE

    def whole(self, key: EnvironmentKey) -> bool:
        """Whether it is there, as it was when it was made; notes that it was asked for. A damaged one is removed."""
        ready = self._folder / key / _READY
        try:
            about = json.loads(ready.read_text())
            if about["digest"] == _digest(self.site(key)):
                os.utime(ready)
                return True
        except (OSError, ValueError, KeyError, TypeError):
            pass
        _remove(self._folder / key)
        return False

    @contextmanager
    def part(self, key: EnvironmentKey) -> Iterator[Path]:
        """A folder on the same file system, for one that is being made; gone afterwards, unless it was put."""
        parent = (self._folder / key).parent
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=parent))
        try:
            yield part / _SITE
        finally:
            _remove(part)

    def put(self, key: EnvironmentKey, site: Path, packages: Collection[str]) -> None:
        """It is whole: makes it read-only, and there for everybody who asks for it."""
        size = 0
        for parent, _, names in os.walk(site):
            for name in names:
                path = os.path.join(parent, name)
                found = os.lstat(path)
                size += found.st_size
                if not stat.S_ISLNK(found.st_mode):
                    os.chmod(path, found.st_mode & 0o555)
            os.chmod(parent, 0o555)
        about = {"digest": _digest(site), "size": size, "packages": sorted(packages)}
        (site.parent / _READY).write_text(json.dumps(about))
        site.parent.chmod(0o755)
        _remove(self._folder / key)
        site.parent.rename(self._folder / key)

    def use(self, key: EnvironmentKey, sandbox: SandboxId) -> None:
        """A sandbox is about to mount it."""
        uses = self._folder / _USES
        uses.mkdir(mode=0o700, parents=True, exist_ok=True)
        (uses / sandbox).write_text(key)

    def used_by(self, sandbox: SandboxId) -> EnvironmentKey:
        """What it has; "" for none."""
        use = self._folder / _USES / sandbox
        return EnvironmentKey(use.read_text() if use.is_file() else "")

    def unuse(self, sandbox: SandboxId) -> None:
        """A sandbox is gone; one that had none is no error."""
        (self._folder / _USES / sandbox).unlink(missing_ok=True)

    def tidy(self, held: Collection[EnvironmentKey], most: int, max_age: float) -> list[EnvironmentKey]:
        """Removes what nobody asked for in `max_age` seconds, then what was not for longest, down to `most` bytes.

        None that is `held` or in use. Returns those that are gone.
        """
        busy = {*held, *(use.read_text() for use in self._uses())}
        kept = sorted(self.kept(), key=lambda each: each.used_at)
        total, gone = sum(each.size for each in kept), []
        for each in kept:
            too_old = time.time() - each.used_at > max_age
            if each.key not in busy and (too_old or total > most):
                _remove(self._folder / each.key)
                gone.append(each.key)
                total -= each.size
        return gone

    def kept(self) -> list[Kept]:
        """All that are there."""
        found = []
        for ready in self._folder.glob(f"*/*/{_READY}"):
            try:
                size, used_at = int(json.loads(ready.read_text())["size"]), ready.stat().st_mtime
            except (OSError, ValueError, KeyError, TypeError):
                size, used_at = 0, 0.0  # damaged: the first to go
            if not ready.parent.name.startswith(_PART):
                key = EnvironmentKey(str(ready.parent.relative_to(self._folder)))
                found.append(Kept(key, size, used_at))
        return found

    def _uses(self) -> list[Path]:
        uses = self._folder / _USES
        return list(uses.iterdir()) if uses.is_dir() else []


def _digest(site: Path) -> str:
    """Of every name, with size and rights: what damage would change. Contents are nobody's but ours to change."""
    told = []
    for parent, folders, names in os.walk(site):
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(parent, each)))):
            about = os.lstat(os.path.join(parent, name))
            told.append(f"{os.path.relpath(parent, site)}/{name}\0{about.st_size}\0{about.st_mode}")
    return hashlib.sha256("\n".join(sorted(told)).encode(errors="surrogateescape")).hexdigest()


def copy_plain(source: Path, target: Path) -> None:
    """Copies plain files and folders into a folder, made where it is not there. Nothing else comes, and all is ours."""
    target.mkdir(exist_ok=True)
    target.chmod(0o755)
    for parent, folders, names in os.walk(source):
        into = target / os.path.relpath(parent, source)
        for name in folders:
            if not os.path.islink(os.path.join(parent, name)):
                (into / name).mkdir()
                (into / name).chmod(0o755)
        for name in names:
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                copy_file(path, into / name, 0o755 if mode & 0o100 else 0o644)


def copy_prefix(source: Path, target: Path) -> None:
    """Copies an environment of conda's: like `copy_plain`, and links that lead to something in it.

    What conda notes of its packages does not come: it names the channels, and how one gets in there.
    """
    copy_plain(source, target)
    _remove(target / CONDA_META)
    (target / CONDA_META).mkdir(mode=0o755)
    (target / CONDA_META / "history").touch(mode=0o644)
    for parent, folders, names in os.walk(source):
        for name in (*folders, *names):
            link = Path(parent, name)
            place = link.relative_to(source)
            if not link.is_symlink() or place.parts[0] == CONDA_META:
                continue
            leads = os.readlink(link)
            if not os.path.isabs(leads) and os.path.normpath(place.parent / leads).split("/")[0] != "..":
                (target / place).symlink_to(leads)


def copy_file(source: Path, target: Path, mode: int) -> None:
    """One plain file, never what a link leads to."""
    with open_plain(source) as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, 1024 * 1024)
    target.chmod(mode)


def open_plain(path: Path) -> BinaryIO:
    """Opens a file that somebody else wrote. Raises OSError for a link."""
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _remove(folder: Path) -> None:
    """A folder whose own folders may be read-only, for others than root too."""
    for parent, _, _ in os.walk(folder):
        os.chmod(parent, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
