"""Jupyter's own test suite for kernels, jupyter-kernel-test, on kernels in sandboxes."""

from __future__ import annotations

from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel
from jupyter_kernel_test import IopubWelcomeTests, KernelTests

from tests.e2e.jupyter.front_end import WAIT_S

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("service")]


class Patient(KernelTests):  # type: ignore[misc]
    """The suite waits a tenth of a second for what it expects, and takes that long for silence: not here."""

    __test__ = False

    @classmethod
    def setUpClass(cls) -> None:
        cls.km, cls.kc = start_new_kernel(kernel_name=cls.kernel_name, startup_timeout=WAIT_S)
        for channel in (cls.kc.iopub_channel, cls.kc.shell_channel):
            channel.get_msg = _patient(channel.get_msg)

    def flush_channels(self) -> None:
        """Everything that was published before an answer is read before it."""
        msg_id = self.kc.kernel_info()
        while self.kc.get_shell_msg()["parent_header"].get("msg_id") != msg_id:
            pass
        while True:
            message = self.kc.get_iopub_msg()
            if message["parent_header"].get("msg_id") == msg_id and message["content"].get("execution_state") == "idle":
                return


def _patient(get: Any) -> Any:
    def wait(timeout: float | None = None) -> Any:
        return get(timeout=WAIT_S)

    return wait


class TestPython(Patient):
    """All cases of the suite."""

    __test__ = True
    kernel_name = "cellyard-python"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "'x'.capit", "matches": {".capitalize"}},
    ]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2", "for n in range(3):"]
    invalid_code_samples = ["import = 7q", "x = )"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('no')"
    code_execute_result = [{"code": "6*7", "result": "42"}, {"code": "'x'*3", "result": "'xxx'"}]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]
    code_history_pattern = "6?7*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestDeno(Patient):
    """What a Deno kernel does: it has no pager, no history and no inspection."""

    __test__ = True
    kernel_name = "cellyard-deno"
    language_name = "typescript"
    file_extension = ".ts"
    code_hello_world = "console.log('hello, world')"
    code_stderr = "console.error('test')"
    completion_samples = [{"text": "globalThis.consol", "matches": {"console"}}]
    complete_code_samples = ["1 + 1", "console.log('hello, world')"]
    code_generate_error = "throw new Error('no')"
    code_execute_result = [{"code": "6*7", "result": "42"}]
    code_display_data = [{"code": "await Deno.jupyter.display(Deno.jupyter.html`<b>test</b>`)", "mime": "text/html"}]
    test_pager = None
    test_history = None
    test_inspect = None
    test_clear_output = None


class TestWelcome(IopubWelcomeTests):  # type: ignore[misc]
    """Whoever subscribes to iopub is told when they are subscribed."""

    kernel_name = "cellyard-python"
    support_iopub_welcome = True


del KernelTests, IopubWelcomeTests, Patient
