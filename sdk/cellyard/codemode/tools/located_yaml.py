"""YAML as data, and the line that each part of it stands on.

Nothing is constructed but dicts, lists, str, int, float, bool and None: the parser's events are read one by one, so
that what is too deep, too large, tagged or shared is refused where it is met. Scalars mean what YAML 1.1 has them mean,
but for dates, numbers to other bases and numbers with leading zeros: those stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from cellyard.codemode.tools.folder import MAX_DEFINITION

MAX_DEPTH = 20
"""Containers within containers."""
MAX_NODES = 50_000
"""Scalars and containers."""

Path: TypeAlias = tuple[str | int, ...]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BREAK = re.compile(r"\r\n|\r|\n|\x85|\u2028|\u2029")
# As the parser has it; asked before it, because it does not say the line.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **{word: True for each in ("true", "yes", "on") for word in (each, each.capitalize(), each.upper())},
    **{word: False for each in ("false", "no", "off") for word in (each, each.capitalize(), each.upper())},
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(
    r"[-+]?((0|[1-9][0-9]{0,17})?\.[0-9]{0,30}([eE][-+]?[0-9]{1,2})?|(0|[1-9][0-9]{0,17})[eE][-+]?[0-9]{1,2})"
)
_DIGIT = re.compile(r"[-+]?\.?[0-9]")


class BadYaml(Exception):
    """Not what is taken."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Located:
    """What a text says, and where."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)
    """From 1; of a mapping's entry it is the key's."""

    def line(self, path: Path) -> int:
        """Of this part, or of the closest that holds it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read(text: bytes) -> Located:
    """Reads one document. Raises BadYaml."""
    if len(text) > MAX_DEFINITION:
        raise BadYaml(1, f"larger than {MAX_DEFINITION // 1024 // 1024} MiB")
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        raise BadYaml(text.count(b"\n", 0, bad.start) + 1, f"not UTF-8 (byte {text[bad.start]:#04x})") from None
    if found := _UNPRINTABLE.search(decoded):
        line = len(_BREAK.findall(decoded, 0, found.start())) + 1
        raise BadYaml(line, f"a character that YAML cannot have: U+{ord(found[0]):04X}")
    try:
        return _Reading(yaml.parse(decoded, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as bad:
        mark: Any = bad.problem_mark if bad.problem_mark is not None else bad.context_mark
        what = ", ".join(part for part in (bad.context, bad.problem) if part)
        raise BadYaml(mark.line + 1 if mark is not None else 1, f"no YAML: {what}") from None
    except yaml.YAMLError as bad:
        raise BadYaml(1, f"no YAML: {bad}") from None
    except RecursionError:
        raise BadYaml(1, f"nested more than {MAX_DEPTH} deep") from None


class _Reading:
    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._lines: dict[Path, int] = {}
        self._nodes = 0

    def document(self) -> Located:
        data: Any = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                root = next(self._events)
                if documents > 1:
                    raise BadYaml(root.start_mark.line + 1, "a second document; a file holds one")
                data = self._node(root, (), 0)
        return Located(data, self._lines)

    def _node(self, event: Any, path: Path, depth: int) -> Any:
        line = event.start_mark.line + 1
        self._nodes += 1
        self._lines.setdefault(path, line)
        if isinstance(event, yaml.AliasEvent):
            raise BadYaml(line, f"an alias (*{event.anchor:.40}); aliases are not taken")
        if event.anchor is not None:
            raise BadYaml(line, f"an anchor (&{event.anchor:.40}); anchors are not taken")
        if event.tag is not None:
            raise BadYaml(line, f"a tag ({event.tag:.80}); tags are not taken")
        if self._nodes > MAX_NODES:
            raise BadYaml(line, f"more than {MAX_NODES} values")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value, line, plain=event.implicit[0])
        if depth >= MAX_DEPTH:
            raise BadYaml(line, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        return self._mapping(path, depth)

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._node(event, (*path, len(found)), depth + 1))
        return found

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
                raise BadYaml(line, "a key that is no plain text")
            key = event.value
            if key == "<<" and event.implicit[0]:
                raise BadYaml(line, "a merge key (<<); merge keys are not taken")
            _scalar(key, line, plain=False)
            if key in found:
                raise BadYaml(line, f"{key[:80]!r} a second time; it stands on line {self._lines[*path, key]} already")
            self._lines[*path, key] = line
            found[key] = self._node(next(self._events), (*path, key), depth + 1)
        return found


def _scalar(text: str, line: int, *, plain: bool) -> Any:
    if "\x00" in text:
        raise BadYaml(line, "a zero byte")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise BadYaml(line, "half of a surrogate pair")
    if not plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DIGIT.match(text) and _FLOAT.fullmatch(text):
        return float(text)
    return text
