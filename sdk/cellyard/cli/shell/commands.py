"""What the shell itself is told: lines that begin with a colon, which is no code in any language here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellyard.errors import CellyardError

if TYPE_CHECKING:
    from cellyard import AsyncSession, ExecutionResult
    from cellyard.cli.shell.loop import Shell
    from cellyard.cli.shell.screen import Screen

HELP = """
  :save N FILE   writes what Out[N] showed: an image, HTML or text, as FILE's ending says
  :restart       replaces the kernel by a fresh one
  :quit          leaves, as Ctrl-D does
  Enter runs what is complete, Alt-Enter what stands there; Tab completes, Ctrl-R searches the history
  Ctrl-C clears the line, or interrupts the cell that runs"""

_BY_ENDING = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
    ".pdf": "application/pdf",
    ".html": "text/html",
    ".md": "text/markdown",
    ".txt": "text/plain",
}


async def do(line: str, shell: Shell, session: AsyncSession, screen: Screen) -> bool:
    """Does what a line says; whether that was to leave."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        screen.say(str(error))
        return False
    match words:
        case ["quit" | "exit"]:
            return True
        case ["help"]:
            screen.say(HELP.lstrip())
        case ["restart"]:
            await shell.restart()
        case ["save", count, file] if count.isdecimal() and int(count) in shell.executions:
            try:
                found = await session.get_execution(shell.executions[int(count)])
                screen.say(save(found, file))
            except CellyardError as error:
                screen.say(str(error))
        case ["save", count, _]:
            screen.say(f"nothing of this kernel ran here as In [{count}]")
        case _:
            screen.say(f"there is no command :{line}; :help lists them")
    return False


def save(result: ExecutionResult, file: str) -> str:
    """Writes what an execution showed to a file that does not exist; says what came of it."""
    path = Path(file).expanduser()
    wanted = _BY_ENDING.get(path.suffix.lower())
    if wanted is None:
        return f"{path.name}: the ending says what to write, one of {', '.join(_BY_ENDING)}"
    content = _shown_as(result, wanted)
    if content is None:
        return f"nothing of it is {wanted}"
    try:
        with path.open("xb") as opened:
            opened.write(content)
    except FileExistsError:
        return f"{path} exists already: nothing was written"
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    return f"{path}: {len(content)} bytes"


def _shown_as(result: ExecutionResult, mime: str) -> bytes | None:
    """The last output in this form."""
    for output in reversed(result.display_data):
        content: Any = (output.data or {}).get(mime)
        if content is not None:
            return content if isinstance(content, bytes) else str(content).encode()
    return result.text.encode() if mime == "text/plain" else None
