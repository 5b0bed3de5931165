"""What a folder's files cannot say of themselves: a JSON file beside them, in step with them whatever ends a writer.

An entry is written before its file is put in place, together with the token under which the file waits and with the
entry that was there before. While a file of that token waits, the entry before is the one in force.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cellyard.codemode.storage.files import Fresh, told
from cellyard.codemode.storage.folders import Folder

_log = logging.getLogger("cellyard.codemode")

_MAX_INDEX = 1 << 30
_text = json.JSONEncoder(ensure_ascii=False).encode
_WAITS, _BEFORE = "_waits", "_before"

Entry = Mapping[str, Any]


class Index:
    """A folder's entries by name, as they were when the folder's lock was taken."""

    def __init__(self, folder: Folder, file: str) -> None:
        """`file` is the index's name. The caller holds the folder's lock."""
        self._folder, self._file = folder, file
        self._damaged = False
        self._replaced = False
        self._entries = self._read()

    def get(self, name: str) -> Entry:
        """What is known of a file; empty where nothing is."""
        entry = self._in_force(self._entries.get(name))
        return {key: value for key, value in (entry or {}).items() if key not in (_WAITS, _BEFORE)}

    def put(self, file: Fresh, name: str, names: Sequence[str], entry: Entry) -> None:
        """Puts a file that is complete and on disk in its place, and the entry with it: both, or none.

        The caller holds the folder's lock alone.
        """
        before = self._settled()
        entries = {**before, name: {**entry, _WAITS: file.token, _BEFORE: before.get(name)}}
        try:
            self._write(entries)
            file.keep = True
            self._folder.put(file, names)
        except BaseException:
            if self._replaced:
                file.keep = True
                with suppress(Exception):  # or else the next writer finds the file waiting, and does the same
                    self._write(before)
                    file.keep = False
            raise

    def remove(self, name: str, names: Sequence[str]) -> None:
        """Removes a file, and its entry. The caller holds the folder's lock alone."""
        before = self._settled()
        self._folder.remove(names)
        if before.pop(name, None) is not None or self._entries.get(name) is not None:
            self._write(before)

    def _read(self) -> dict[str, Any]:
        text = self._folder.read((self._file,), _MAX_INDEX)
        if text is None:
            return {}
        try:
            read = json.loads(text)
            if not isinstance(read, dict):
                raise ValueError(f"it holds a {type(read).__name__}, not an object")
        except (ValueError, RecursionError) as bad:
            _log.warning("%s is damaged (%s): files are read without it", self._folder.path / self._file, bad)
            self._damaged = True
            return {}
        return read

    def _in_force(self, entry: Any) -> dict[str, Any] | None:
        """An entry that is whole; what is no entry at all counts as none."""
        while isinstance(entry, dict):
            token = entry.get(_WAITS)
            if not isinstance(token, str) or "/" in token or not self._folder.is_waiting(token):
                return entry
            entry = entry.get(_BEFORE)
        return None

    def _settled(self) -> dict[str, Any]:
        """All entries as they are in force. What a writer left behind goes."""
        settled, waiting = {}, set()
        for name, entry in self._entries.items():
            if isinstance(entry, dict) and _WAITS in entry:
                waiting.add(str(entry[_WAITS]))
                found = self._in_force(entry)
                if found is not None:
                    settled[name] = {key: value for key, value in found.items() if key not in (_WAITS, _BEFORE)}
            else:
                settled[name] = entry
        self._folder.sweep(waiting)
        return settled

    def _write(self, entries: Mapping[str, Any]) -> None:
        if self._damaged:
            aside = self._folder.set_aside(self._file)
            _log.warning("the damaged index is kept as %s", aside)
            self._damaged = False
        with self._folder.fresh() as file, told(self._folder.path / self._file):
            # An entry a line: short for people, and several times as fast as if all of it were indented.
            lines = ",\n".join(f"  {_text(name)}: {_text(entries[name])}" for name in sorted(entries))
            # Somebody's own entries may hold halves of surrogate pairs; json reads them so, too.
            file.write(f"{{\n{lines}\n}}\n".encode(errors="surrogatepass"))
            file.sync()
            self._replaced = True
            self._folder.put(file, (self._file,))
