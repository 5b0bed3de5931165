"""The sources that a fake kernel runs: one command a line, whatever is no command is a value of its own text.

| line | what the cell does |
| --- | --- |
| `print TEXT`, `stderr TEXT` | writes a line |
| `display ID TEXT`, `update ID TEXT` | displays text under an id, replaces it there |
| `html TEXT`, `json TEXT` | displays text/html, application/json |
| `clear`, `clear wait` | empties its outputs, now or with the next one |
| `value TEXT` | is its value: JSON as data, other text as a repr |
| `error NAME TEXT` | raises; what follows does not run |
| `hang`, `hang deaf` | runs until interrupted; deaf: until the kernel is gone |
| `gate NAME` | runs until the test opens that gate, or until interrupted |
| `flood N` | writes N lines, each an event of its own |
| `call NAME ARGS`, `input PROMPT` | calls its client's function, asks for a line; writes what it gets |
| `ask NAME OPERATION KWARGS` | the same with the operation as the only argument, and keyword arguments |
| `comm ID JSON` | a comm's message; the first one opens it |
| `exit N`, `oom` | the kernel ends with that exit code, or is killed for want of memory |
"""

from __future__ import annotations

from dataclasses import dataclass

_ARGUMENTS = {
    "print": 1,
    "stderr": 1,
    "html": 1,
    "json": 1,
    "display": 2,
    "update": 2,
    "clear": 1,
    "value": 1,
    "error": 2,
    "hang": 1,
    "gate": 1,
    "flood": 1,
    "call": 2,
    "ask": 3,
    "input": 1,
    "comm": 2,
    "exit": 1,
    "oom": 1,
}


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a script."""

    verb: str
    arguments: tuple[str, ...]

    def argument(self, index: int, default: str = "") -> str:
        """One argument; the last one of a verb is the rest of its line."""
        return self.arguments[index] if index < len(self.arguments) else default


def parse(source: str) -> list[Command]:
    """The commands of a source; empty lines and comments are none."""
    commands = []
    for line in source.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        verb, _, rest = line.partition(" ")
        if verb in _ARGUMENTS:
            commands.append(Command(verb, tuple(rest.split(" ", _ARGUMENTS[verb] - 1)) if rest else ()))
        else:
            commands.append(Command("value", (line,)))
    return commands
