"""What is typed: the prompt for code, with the kernel's completions, and prompts for what code asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import DummyHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.patch_stdout import patch_stdout
from pygments.lexers import PythonLexer, TypeScriptLexer  # type: ignore[import-untyped]

from cellyard.cli.printing import visible
from cellyard.cli.shell import completeness, history
from cellyard.errors import CellyardError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cellyard import AsyncSession


class Prompts:
    """The terminal's lines."""

    def __init__(self, session: AsyncSession, kernel_type: str) -> None:
        lexer = TypeScriptLexer if kernel_type == "deno" else PythonLexer
        self._code: PromptSession[str] = PromptSession(
            multiline=True,
            lexer=PygmentsLexer(lexer),
            completer=KernelCompleter(session),
            complete_while_typing=False,
            history=history.opened(),
            enable_history_search=True,
            key_bindings=_keys(kernel_type),
        )
        self._lock = asyncio.Lock()

    async def code(self, number: int) -> str:
        """The next cell's code. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
        label = f"In [{number}]: "

        def continued(width: int, _line: int, _wrapped: int) -> str:
            return "...: ".rjust(width)

        async with self._lock:
            with patch_stdout(raw=True):  # what is told meanwhile stands above the prompt
                return await self._code.prompt_async(label, prompt_continuation=continued, handle_sigint=False)

    async def line(self, prompt: str, *, password: bool) -> str:
        """A line that code asked for; kept nowhere. Raises as `code` does.

        Several threads of a cell may ask: one after the other.
        """
        async with self._lock:
            asking: PromptSession[str] = PromptSession(history=DummyHistory())
            return await asking.prompt_async(
                visible(prompt, lines=True), is_password=password, enable_history_search=False, handle_sigint=False
            )


class KernelCompleter(Completer):
    """What the kernel would put at the cursor. Asked in the prompt's own event loop, and nothing waits for it."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """None: the kernel is asked asynchronously."""
        return ()

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What could stand there; nothing without a kernel, or where it is busy."""
        try:
            found = await self._session.complete(document.text, document.cursor_position)
        except CellyardError:
            return
        for match in found.matches:
            if match.isprintable():
                yield Completion(match, start_position=found.start - document.cursor_position)


def _keys(kernel_type: str) -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)

    @Condition
    def nothing_before() -> bool:
        return not get_app().current_buffer.document.current_line_before_cursor.strip()

    @keys.add("enter", filter=typing)
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        document = buffer.document
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # what was chosen stands there already
        elif document.text_after_cursor.strip() or not completeness.complete(document.text, kernel_type):
            buffer.insert_text("\n" + completeness.indentation(document.text_before_cursor, kernel_type))
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def run_it(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("tab", filter=typing & nothing_before)
    def indent(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text(completeness.INDENT)

    return keys
