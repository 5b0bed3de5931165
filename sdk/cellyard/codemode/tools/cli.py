"""Commands as tools."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cellyard.codemode.errors import ToolCallError, ToolTimeoutError
from cellyard.codemode.tools import process_groups
from cellyard.codemode.tools.command_lines import command_line, outline
from cellyard.codemode.tools.definitions import CliDefinition
from cellyard.codemode.tools.parameters import Outline

MAX_OUTPUT = 10 * 1024 * 1024
"""Bytes of standard output."""


class CliTool:
    """Runs a program for each call, with the rights, the folder and the environment of this process."""

    def __init__(self, definition: CliDefinition) -> None:
        self._definition = definition
        self._outline = outline(definition)

    @property
    def name(self) -> str:
        return self._definition.name

    def outline(self) -> Outline:
        return self._outline

    async def open(self) -> None:
        """There is nothing to make ready: a command that is missing may be there by the time of its call."""

    async def close(self) -> None:
        """A call ends what it started by itself."""

    def check(self, recipe: str | None, args: Mapping[str, Any]) -> None:
        command_line(self._definition, recipe, args)

    async def call(self, recipe: str | None, args: Mapping[str, Any]) -> str | bytes:
        """Standard output, as it is: text where it is UTF-8, else bytes, so that nothing of it is lost."""
        argv = command_line(self._definition, recipe, args)
        timeout = self._definition.timeout
        env = {**os.environ, **self._definition.env}
        try:
            finished = await process_groups.run(argv, env=env, timeout=timeout, max_output=MAX_OUTPUT)
        except TimeoutError:
            raise ToolTimeoutError(f"Tool '{self.name}' timed out after {timeout:g}s") from None
        except process_groups.TooMuchOutput:
            raise ToolCallError(
                f"Tool '{self.name}' failed: it wrote more than {MAX_OUTPUT // 1024 // 1024} MiB, and was ended"
            ) from None
        except OSError as failure:
            raise ToolCallError(f"Tool '{self.name}' failed: {argv[0]}: {failure.strerror}") from None
        if finished.returncode != 0:
            raise ToolCallError(f"Tool '{self.name}' failed: Command failed: {_reason(finished)}")
        try:
            return finished.stdout.decode()
        except UnicodeDecodeError:
            return finished.stdout


def _reason(finished: process_groups.Finished) -> str:
    if finished.stderr:
        return finished.stderr
    if finished.returncode < 0:
        return f"killed by signal {-finished.returncode}"
    return f"Exit code {finished.returncode}"
