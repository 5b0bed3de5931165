"""The two specifications as data: each page's sections, with the examples in them, taken from the text as it is."""

from __future__ import annotations

import ast
import inspect
import io
import re
from asyncio import Runner
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2].parent / "shared" / "spec"
SYNC, ASYNC = "runtimed-session.md", "runtimed-async-session.md"

# The pages are flattened: code stands between prose with nothing around it. So a line is code by how it begins;
# neighbouring ones are an example, blank lines between them included. A heading is a line with blank ones around it.
CODE = re.compile(
    r"\s+[^\s•]|#|\)|import |print\(|await |session\.\w|\w+ = |(async )?(with|def|for|if) |asyncio\.|(Async)?Session\("
)
LOOKS_LIKE_CODE = re.compile(r"session\.\w|runtimed\.|await |print\(|^import |^(Async)?Session\(")


@dataclass
class Section:
    """What stands under a heading."""

    prose: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


def read(name: str) -> dict[str, Section]:
    """A page's sections by heading."""
    lines = ["", *(line.rstrip() for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()), ""]
    section = Section()
    sections = {"": section}
    code: list[str] = []
    for before, line, after in zip(lines, lines[1:], [*lines[2:], ""], strict=False):
        if CODE.match(line) or (code and not line):
            code.append(line)
            continue
        if code:
            section.examples.append("\n".join(code).rstrip() + "\n")
            code = []
        if line and not before and not after:
            section = sections[line] = Section()
        elif line:
            section.prose.append(line)
    assert not code
    return sections


def signature(example: str) -> dict[str, Any]:
    """The parameters of the one call in an example: defaults by name, `inspect.Parameter.empty` for required ones."""
    (statement,) = ast.parse(example).body
    assert isinstance(statement, ast.Expr | ast.Assign)
    call = statement.value.value if isinstance(statement.value, ast.Await) else statement.value
    assert isinstance(call, ast.Call)
    required = {ast.unparse(argument): inspect.Parameter.empty for argument in call.args}
    return required | {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}


class Script:
    """Runs examples one after the other in one namespace, as a notebook or the asyncio REPL would."""

    def __init__(self, page: str) -> None:
        self.is_async = page == ASYNC
        self._runner = Runner()
        self.sections = read(page)
        self.names: dict[str, Any] = {}
        self.run("import cellyard as runtimed")

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def run(self, source: str) -> str:
        """Runs it; returns what it printed."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if self.is_async else 0
        code = compile(source, "example", "exec", flags, dont_inherit=True)
        with redirect_stdout(io.StringIO()) as printed:
            pending = eval(code, self.names)
            if inspect.iscoroutine(pending):
                self._runner.run(pending)
        return printed.getvalue()

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        """What the session has under this name: a property's value or a call's, awaited where it has to be."""
        value = getattr(self["session"], name)
        if callable(value):
            value = value(*arguments, **named)
        return self._runner.run(value) if inspect.iscoroutine(value) else value

    def close(self) -> None:
        """Closes the session that it has last, and the loop."""
        if "session" in self.names:
            self.ask("close")
        self._runner.close()
