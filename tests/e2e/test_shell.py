"""`cellyard shell` as somebody uses it: keys on a terminal, a controller, a kernel in a container."""

from __future__ import annotations

import contextlib
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process
from tests.terminal import CTRL_C, CTRL_D, ENTER, TAB, Terminal
from tests.terminal import cellyard as on_terminal

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]


def shell(controller: Process, *arguments: str) -> Terminal:
    env = {"CELLYARD_ENDPOINT": controller.endpoint, "XDG_STATE_HOME": str(controller.folder / "state")}
    return on_terminal("shell", *arguments, env=env)


@pytest.fixture
def at_prompt(shared_controller: Process) -> Iterator[Terminal]:
    with shell(shared_controller) as terminal:
        terminal.expect("In [1]:")
        yield terminal
        terminal.process.terminate()
        terminal.ended()


def complete_until(terminal: Terminal, shown: str) -> None:
    """Asks again where the kernel was too slow to answer: then nothing is offered, as it should be."""
    for _ in range(8):
        terminal.type(TAB)
        with contextlib.suppress(AssertionError):
            terminal.expect(shown, within=10)
            return
    raise AssertionError(f"{shown!r} was never offered")


def notebook_ids(controller: Process) -> list[str]:
    with cellyard.Client(controller.endpoint) as client:
        return [each.notebook_id for each in client.list_notebooks()]


def test_what_is_typed_runs_and_what_it_was_stays_with_its_user(shared_controller: Process) -> None:
    before = notebook_ids(shared_controller)
    with shell(shared_controller) as terminal:
        terminal.expect("In [1]:")
        terminal.enter("6 * 7")
        terminal.expect("Out[1]: 42")
        terminal.expect("In [2]:")
        terminal.type(f"for each in (1, 2):{ENTER}print('item', each){ENTER}{ENTER}")
        terminal.expect("item 1\nitem 2\n")
        terminal.expect("In [3]:")
        terminal.enter("1 / 0")
        terminal.expect("ZeroDivisionError: division by zero")
        terminal.expect("In [4]:")
        terminal.enter("name = input('wh' 'o? ')")
        terminal.expect("who?")
        terminal.enter("ada")
        terminal.expect("In [5]:")
        terminal.enter("import getpass; name, len(getpass.getpass('sec' 'ret? '))")
        terminal.expect("secret?")
        terminal.enter("hunter22")
        terminal.expect("Out[5]: ('ada', 8)")
        terminal.expect("In [6]:")
        assert "hunter22" not in terminal.text
        assert len(notebook_ids(shared_controller)) == len(before) + 1
        terminal.type(CTRL_D)
        assert terminal.ended() == 0
        assert terminal.modes_now() == terminal.modes
    assert notebook_ids(shared_controller) == before
    history = shared_controller.folder / "state" / "cellyard" / "shell_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "6 * 7" in history.read_text()
    assert "hunter22" not in history.read_text()
    assert "ada\n" not in history.read_text()


def test_ctrl_c_clears_a_line_and_interrupts_a_cell(at_prompt: Terminal) -> None:
    at_prompt.type("not this")
    at_prompt.expect("not this")
    at_prompt.type(CTRL_C)
    at_prompt.expect("In [1]:")
    at_prompt.enter("import time; print('ru' 'ns'); time.sleep(600)")
    at_prompt.expect("runs\n")
    at_prompt.type(CTRL_C)
    at_prompt.expect("KeyboardInterrupt")
    at_prompt.expect("In [2]:")
    at_prompt.enter("input('stu' 'ck? ')")
    at_prompt.expect("stuck?")
    at_prompt.type(CTRL_C)
    at_prompt.expect("KeyboardInterrupt")
    at_prompt.expect("In [3]:")
    at_prompt.enter("'still', time.__name__")
    at_prompt.expect("Out[3]: ('still', 'time')")


def test_a_cell_that_ignores_interrupts_ends_with_its_kernel_at_the_third(at_prompt: Terminal) -> None:
    at_prompt.enter("import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf')")
    at_prompt.expect("deaf\n")
    at_prompt.expect("In [2]:")
    lines = ["while True:", "try:", "print('on'); time.sleep(600)", "except BaseException:", "print('no')"]
    at_prompt.type(f"{lines[0]}{ENTER}{lines[1]}{ENTER}{lines[2]}{ENTER}\x7f\x7f\x7f\x7f{lines[3]}{ENTER}{lines[4]}")
    at_prompt.type(f"{ENTER}{ENTER}")
    at_prompt.expect("on\n")
    at_prompt.type(CTRL_C)
    at_prompt.expect("interrupting the cell")
    at_prompt.type(CTRL_C)
    at_prompt.expect("once more restarts the kernel")
    at_prompt.type(CTRL_C)
    at_prompt.expect("the kernel was restarted")
    at_prompt.expect("In [1]:")
    at_prompt.enter("'lines' in dir()")
    at_prompt.expect("Out[1]: False")


def test_the_kernel_completes_and_pictures_are_saved(at_prompt: Terminal, tmp_path: Path) -> None:
    at_prompt.enter("remarkably_long = 5")
    at_prompt.expect("In [2]:")
    at_prompt.type("remarkab")
    complete_until(at_prompt, "ly_long")
    at_prompt.enter(" + 1")
    at_prompt.expect("Out[2]: 6")
    at_prompt.expect("In [3]:")
    at_prompt.enter(
        "import base64; from IPython.display import Image; Image(data=b'\\x89PNG' + bytes(20), format='png')"
    )
    at_prompt.expect("image/png, 24 bytes")
    at_prompt.expect("In [4]:")
    at_prompt.enter(f":save 3 {tmp_path}/a.png")
    at_prompt.expect("a.png: 24 bytes")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    at_prompt.expect("In [4]:")
    at_prompt.enter(f":save 3 {tmp_path}/a.png")
    at_prompt.expect("exists already")
    at_prompt.expect("In [4]:")
    at_prompt.enter(":nothing")
    at_prompt.expect("there is no command :nothing")


def test_the_end_of_a_kernel_is_told_and_the_next_cell_goes_on(shared_controller: Process) -> None:
    with shell(shared_controller, "--notebook", "lasting") as terminal:
        terminal.expect("In [1]:")
        terminal.enter("import os; os._exit(3)")
        terminal.expect("the kernel ended: the kernel died: exit code 3")
        terminal.expect("In [1]:")
        terminal.enter("'again'")
        terminal.expect("Out[1]: 'again'")
        terminal.expect("In [2]:")
        with cellyard.Client(shared_controller.endpoint) as client:
            mine = [each for each in client.list_sandboxes() if each.notebook_id == "lasting"]
            client.stop_sandbox(mine[0].sandbox_id)
        terminal.expect("the kernel ended")  # told while the prompt waits
        terminal.enter("'and again'")
        terminal.expect("Out[1]: 'and again'")
        terminal.expect("In [2]:")
        terminal.enter(":quit")
        assert terminal.ended() == 0
    assert "lasting" in notebook_ids(shared_controller)
    with cellyard.Client(shared_controller.endpoint) as client:
        client.delete_notebook("lasting")


def test_a_shell_outlives_its_controller(controller: Process) -> None:
    with shell(controller) as terminal:
        terminal.expect("In [1]:")
        terminal.enter("kept = 'kept'")
        terminal.expect("In [2]:")
        controller.kill()
        controller.start()
        terminal.enter("kept")
        terminal.expect("Out[2]: 'kept'")
        terminal.expect("In [3]:")
        terminal.type(CTRL_D)
        assert terminal.ended() == 0


def test_a_shell_that_is_told_to_end_leaves_nothing(shared_controller: Process) -> None:
    before = notebook_ids(shared_controller)
    with shell(shared_controller) as terminal:
        terminal.expect("In [1]:")
        terminal.enter("import time; print('runs'); time.sleep(600)")
        terminal.expect("runs\n")
        terminal.process.terminate()
        assert terminal.ended() == 143
        assert terminal.modes_now() == terminal.modes
    assert notebook_ids(shared_controller) == before


def test_without_a_terminal_there_is_no_shell(shared_controller: Process) -> None:
    command = [sys.executable, "-m", "cellyard.cli", "shell", "--endpoint", shared_controller.endpoint]
    done = subprocess.run(command, input="1 + 1", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cellyard run -" in done.stderr
