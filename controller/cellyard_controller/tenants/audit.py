"""The audit log: who did what to which notebook, from where. JSON lines in the data folder, the newest at the end.

Entries are gathered on the event loop and written by a thread, at the latest half a second later: a process that is
killed loses what it has gathered meanwhile, a machine that loses power what its system had not yet put on disk. What
the operator does to tenants is on disk before it is answered. Sources, outputs, environments and secrets are never in
it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

FILE = "audit.jsonl"
WRITTEN_WITHIN_S = 0.5
_MAX_WAITING = 100_000
"""Entries that wait for a disk that takes none; what comes then is counted only."""
_MAX_TEXT = 256
_REFUSALS, _PER_S, _ADDRESSES = 20, 60.0, 1_000

log = structlog.get_logger()


class Audit:
    """Gathers entries and has them written. `run` it."""

    def __init__(self, folder: Path, *, max_bytes: int, files: int) -> None:
        """`max_bytes`: of one file; then another one begins, and of all of them `files` are kept."""
        self._path, self._max_bytes, self._files = folder / FILE, max_bytes, files
        self._waiting: list[dict[str, Any]] = []
        self._lost = 0
        self._some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._torn = False
        self._refusals = Sparing()

    def note(self, action: str, *, tenant: str, about: Mapping[str, Any], **more: Any) -> None:
        """Something was done: `about` which things, by their ids. Empty values are left out."""
        if len(self._waiting) >= _MAX_WAITING:
            self._lost += 1
            return
        self._waiting.append({"at": time.time(), "action": action, "tenant": tenant, **about, **more})
        self._some.set()

    def refused(self, action: str, *, tenant: str, about: Mapping[str, Any], **more: Any) -> None:
        """Something was refused. Of one address some are noted in a minute, the others counted."""
        before = self._refusals.admit(str(more.get("from", "")).rpartition(":")[0], time.monotonic())
        if before is not None:
            self.note(action, tenant=tenant, about=about, **more, not_noted=before or None)

    async def run(self) -> None:
        """Writes what is gathered, until cancelled; call `flush` then."""
        while True:
            await self._some.wait()
            await asyncio.sleep(WRITTEN_WITHIN_S)
            await self.flush(sync=False)

    async def flush(self, *, sync: bool = True) -> None:
        """Writes what is gathered; with `sync` it is on disk when this returns."""
        async with self._writing:
            self._some.clear()
            entries, self._waiting = self._waiting, []
            if self._lost:
                entries.append({"at": time.time(), "action": "audit.lost", "entries": self._lost})
            if not entries:
                return
            try:
                await asyncio.to_thread(self._write, entries, sync)
            except OSError as failed:
                log.error("the audit log cannot be written", why=str(failed), entries=len(entries))
                self._torn = True
                kept = [entry for entry in entries if entry["action"] != "audit.lost"]
                self._waiting = (kept + self._waiting)[:_MAX_WAITING]
                self._some.set()  # and again
            else:
                self._lost, self._torn = 0, False

    def _write(self, entries: list[dict[str, Any]], sync: bool) -> None:
        text = "".join(_line(entry) for entry in entries)
        self._make_room()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            # After a failure the last line may have been cut: what follows it is a line of its own.
            file.write((("\n" if self._torn else "") + text).encode())
            file.flush()
            if sync:
                os.fsync(file.fileno())

    def _make_room(self) -> None:
        try:
            if self._path.stat().st_size < self._max_bytes:
                return
        except FileNotFoundError:
            return
        for number in range(self._files - 1, 0, -1):
            older, old = _rotated(self._path, number), _rotated(self._path, number - 1)
            if old.exists():
                old.replace(older)
        if self._files == 1:
            self._path.unlink()


def files(folder: Path) -> list[Path]:
    """The files of the log, the oldest first."""
    path, numbers = folder / FILE, (each.name.split(".")[1] for each in folder.glob("audit.*.jsonl"))
    rotated = [_rotated(path, number) for number in sorted((int(n) for n in numbers if n.isdecimal()), reverse=True)]
    return [*rotated, *([path] if path.exists() else [])]


def entry_of(line: bytes) -> dict[str, Any] | None:
    """One entry; None for a line that was cut."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


@dataclass(slots=True)
class _Minute:
    since: float
    noted: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Sparing:
    """Lets some of each kind through in a minute. Pure."""

    _kinds: dict[str, _Minute] = field(default_factory=dict)

    def admit(self, kind: str, now: float) -> int | None:
        """None to leave one out; else how many were left out before it, since the last that was let through."""
        minute = self._kinds.get(kind)
        if minute is None or now >= minute.since + _PER_S:
            left_out = minute.left_out if minute else 0
            self._kinds.pop(kind, None)
            if len(self._kinds) >= _ADDRESSES:
                self._kinds.pop(next(iter(self._kinds)))  # the one that began first
            self._kinds[kind] = _Minute(now, 1)
            return left_out
        if minute.noted < _REFUSALS:
            minute.noted += 1
            return 0
        minute.left_out += 1
        return None


def _rotated(path: Path, number: int) -> Path:
    return path.with_name(f"audit.{number}.jsonl") if number else path


def _line(entry: dict[str, Any]) -> str:
    shown = {key: _short(value) for key, value in entry.items() if value not in ("", None)}
    shown["at"] = _moment(entry["at"])
    return json.dumps(shown, separators=(",", ":")) + "\n"


def _short(value: Any) -> Any:
    return value[:_MAX_TEXT] + "..." if isinstance(value, str) and len(value) > _MAX_TEXT else value


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"
