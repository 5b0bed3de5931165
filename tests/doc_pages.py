"""Pages of the documentation as their reader would work through them: block after block, in a folder of one's own.

What becomes of a fenced block:

- with `title="NAME"` it is written to that file;
- `python` is run, all blocks of a page in one interpreter;
- `console` is given to a shell, command by command (`$ `), and what stands below a command is what it has to say;
- `text` is what the block of Python above it has to print.

In what is shown, `...` stands for anything. Every other block is a mistake: nothing on these pages is untried.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENDED_WITHIN = 60.0
FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?(.*)$")
INTERPRETER = """
import io, json, os, sys, traceback
from contextlib import redirect_stdout

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
names = {"__name__": "__main__"}
for line in sys.stdin:
    source, place = json.loads(line)
    failed = ""
    with redirect_stdout(io.StringIO()) as printed:
        try:
            exec(compile(source, place, "exec"), names)
        except BaseException:
            failed = traceback.format_exc()
    answers.write(json.dumps([printed.getvalue(), failed]) + "\\n")
    answers.flush()
"""


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page under docs/."""
    lines = iter(enumerate((ROOT / "docs" / page).read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if (opened := FENCE.match(line)) is None:
            continue
        assert not opened[4], f"{page}:{number}: {line}"
        inside = []
        for _, each in lines:
            if each.strip() == "```":
                break
            inside.append(each)
        yield Block(opened[2], opened[3] or "", textwrap.dedent("\n".join(inside)) + "\n", number)


class Reader:
    """Somebody who works through pages."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """In this folder. `environment`: variables besides the usual ones; Cellyard's own are not inherited."""
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        usual = {name: value for name, value in os.environ.items() if not name.startswith(("CELLYARD_", "RUNTIMED_"))}
        self.environment = {**usual, "PATH": path, "COLUMNS": "100", **environment}
        self._shell = self._child(["bash", "--norc"], subprocess.STDOUT)
        self._python = self._child([sys.executable, "-u", "-c", INTERPRETER], None)

    def read(self, page: str, *, replace: Mapping[str, str] | None = None, served: bool = False) -> None:
        """Does all that a page shows; fails where something else comes of it.

        `replace`: what stands on the page for what is here, such as a port. `served`: the controller that the page
        starts runs already, with the configuration that it shows among others.
        """
        printed: str | None = None
        for shown in blocks(page):
            place, text = f"{page}:{shown.line}", shown.text
            for there, here in (replace or {}).items():
                text = text.replace(there, here)
            block = Block(shown.language, shown.title, text, shown.line)
            if block.title:
                (self.folder / block.title).write_text(block.text)
            elif block.language == "python":
                printed = self._run(block.text, place)
            elif block.language == "text":
                assert printed is not None, f"{place}: no Python above it prints this"
                check(block.text, printed, place)
                printed = None
            elif block.language == "console":
                self._type(block.text, place, served)
            else:
                raise AssertionError(f"{place}: a block of {block.language or 'nothing'} that nobody tries")

    def _run(self, source: str, place: str) -> str:
        if "require=" in source:
            self._wait_until_proven(source)
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps([source, place]) + "\n")
        self._python.stdin.flush()
        printed, failed = json.loads(self._python.stdout.readline())
        assert not failed, f"{place}: {failed}"
        return str(printed)

    def _wait_until_proven(self, source: str) -> None:
        """For the controller and the template that a block names."""
        named = dict(re.findall(r"(endpoint|template)=\"([^\"]+)\"", source))
        arguments = [named[name] for name in ("endpoint", "template") if name in named]
        command = [sys.executable, str(ROOT / "tests" / "proven.py"), *arguments]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True)

    def _type(self, text: str, place: str, served: bool) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = re.sub(r"\\\n *", "", part).partition("\n")
            if (wanted := re.fullmatch(r'pip install "cellyard\[([\w,]+)\]"', command)) is not None:
                # Tests install nothing: that there are such extras has to do.
                assert set(wanted[1].split(",")) <= _extras(), place
                continue
            if served and command.startswith(("cellyard serve ", "until cellyard status ")):
                continue
            said = self._say(command)
            if shown:
                check(shown, said, f"{place}: {command}")

    def _say(self, command: str) -> str:
        """What a command writes. Commands that fail are the page's to show."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\necho; echo 'END OF COMMAND'\n")
        self._shell.stdin.flush()
        said: list[str] = []
        for line in self._shell.stdout:
            if line == "END OF COMMAND\n":
                break
            said.append(line)
        return "".join(said).removesuffix("\n")

    def _child(self, command: list[str], stderr: int | None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
        )

    def close(self) -> None:
        """Ends interpreter and shell, and waits for what they have left running to end, too."""
        for child in (self._python, self._shell):
            assert child.stdin is not None
            assert child.stdout is not None
            left = list(_session(child.pid))
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            for process in left:
                assert select.select([process], [], [], ENDED_WITHIN)[0], "a page has left a process that does not end"
                os.close(process)
            child.stdin.close()
            child.stdout.close()


def _session(leader: int) -> Iterator[int]:
    """The processes of a session, its leader among them, as file descriptors."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(pid := int(folder.name)) == leader:
                yield os.pidfd_open(pid)
        except ProcessLookupError:
            pass  # it has ended meanwhile


def check(shown: str, came: str, place: str) -> None:
    """Compares what a page shows with what came."""
    checker = doctest.OutputChecker()
    example = doctest.Example("", shown)
    if not checker.check_output(example.want, came.rstrip("\n") + "\n", doctest.ELLIPSIS):
        raise AssertionError(f"{place}\n{checker.output_difference(example, came, doctest.REPORT_NDIFF)}")


def _extras() -> set[str]:
    import importlib.metadata

    return set(importlib.metadata.metadata("cellyard").get_all("Provides-Extra") or ())
