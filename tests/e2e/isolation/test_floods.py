"""Output without end: it costs the sandbox its own budget, and neither memory of the controller nor others' time."""

from __future__ import annotations

import pytest

import cellyard
from tests.controller_process import Process

from .conftest import MIB, Careless, unharmed

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

FLOODS = {
    "1 GB to stdout": "line = 'x' * 9999\nfor _ in range(100_000): print(line)",
    "a million tiny prints": "for number in range(1_000_000): print(number)",
    "a line of 100 MB": "print('x' * 100_000_000)",
    "100 MB past Python": "import os\nfor _ in range(1600): os.write(1, b'y' * 65536)",
    "a hundred thousand updates of a display": (
        "from IPython.display import display\n"
        "shown = display('start', display_id=True)\n"
        "for number in range(100_000): shown.update(number)"
    ),
    "fifty thousand displays": "from IPython.display import display\nfor number in range(50_000): display(number)",
    "a value of 100 MB": "'v' * 100_000_000",
    "an error of 100 MB": "raise ValueError('e' * 100_000_000)",
}


COUNTED = """
import subprocess, sys
shell = 'from IPython.core.interactiveshell import InteractiveShell as S; S.instance().run_cell(' + repr(CODE) + ')'
process = subprocess.Popen([sys.executable, '-c', shell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
size = lines = 0
while piece := process.stdout.read(1 << 20):
    size, lines = size + len(piece), lines + piece.count(10)
print(size > 90_000_000 or lines >= 50_000)
"""


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_costs_its_own_budget(yard: Process, careless: Careless, flood: str) -> None:
    assert careless(COUNTED.replace("CODE", repr(FLOODS[flood]))) == "True\n"  # all of it comes
    with cellyard.Session(endpoint=yard.endpoint) as session:
        session.run("1")
        with unharmed(yard):
            result = session.run(FLOODS[flood], timeout_secs=240)
        assert sum(len(str(output)) for output in result.outputs) < 18 * MIB
        assert session.run("'still here'").value == "still here"


def test_the_last_state_of_an_updated_display_survives_and_the_cut_is_told(yard: Process) -> None:
    with cellyard.Session(endpoint=yard.endpoint) as session:
        result = session.run("print('x' * 20_000_000)")
        assert "[cellyard: output truncated after" in result.text
        code = FLOODS["a hundred thousand updates of a display"].replace("100_000", "10_000")
        shown = session.run(code, timeout_secs=240)
        assert shown.display_data[0].data["text/plain"] == "9999"
