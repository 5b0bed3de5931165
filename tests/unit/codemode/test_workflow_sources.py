"""Sources that want to hurt whoever reads them: an error each, in a thread of the least stack that is promised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.errors import WorkflowValidationError

ROOT = Path(__file__).parents[3]
RUN = "\ndef run(): pass"
LONGEST = workflows.MAX_SOURCE - len(RUN)


def repeated(unit: str, end: str = "", begin: str = "x=") -> str:
    """As long as a source may be."""
    return begin + unit * ((LONGEST - len(begin) - len(end)) // len(unit)) + end + RUN


HOSTILE = {
    "unary": repeated("-", "1"),
    "not": repeated("not ", "1"),
    "sum": repeated("a+", "1"),
    "power": repeated("a**", "1"),
    "attributes": repeated(".a", begin="x=a"),
    "calls": repeated("()", begin="x=a"),
    "subscripts": repeated("[0]", begin="x=a"),
    "lambdas": repeated("lambda:", "1"),
    "defaults of lambdas": repeated("lambda a=lambda:1:", "1"),
    "brackets": "x=" + "(" * (LONGEST // 2 - 2) + ")" * (LONGEST // 2 - 2) + RUN,
    "brackets that stay open": "x=" + "{1:" * 190 + "1" + RUN,
    "conditions": repeated("1 if a else ", "1"),
    "elif": "if a:pass\n" + "elif a:pass\n" * 20_000 + RUN,
    "formatted": 'x=f"{a:' + "{a:" * 1000 + "}" * 1000 + '}"' + RUN,
    "patterns": "match a:\n case a" + ".a" * 60_000 + ":pass" + RUN,
    "calls with a mistake": "x=" + "f(a=" * 60 + "a b" + ")" * 60 + RUN,
    "a default": "def run(a=" + "-" * 2900 + "1): pass",
    "an annotation": "def run(a:b" + "|None" * 2500 + "): pass",
    "many parameters": "def run(" + ",".join(f"a{number}" for number in range(101)) + "): pass",
}
PARSE = """
import sys, threading
from cellyard_proto.codemode import workflows
from cellyard_proto.codemode.errors import WorkflowValidationError

def read(source):
    try:
        workflows.parse("a", source)
    except WorkflowValidationError:
        pass

threading.stack_size(2 * 1024 * 1024)
for source in sys.stdin.read().split("\\0"):
    thread = threading.Thread(target=read, args=(source,))
    thread.start()
    thread.join()
print("alive")
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_nested_or_chained_too_deep_is_an_error(name: str) -> None:
    with pytest.raises(WorkflowValidationError):
        workflows.parse("a", HOSTILE[name])


def test_nothing_of_it_crashes_a_thread_with_two_mebibytes_of_stack() -> None:
    read = subprocess.run(
        [sys.executable, "-c", PARSE], input="\0".join(HOSTILE.values()), capture_output=True, text=True, check=False
    )
    assert (read.returncode, read.stdout) == (0, "alive\n"), read.stderr[-2000:]


def test_long_defaults_are_cut_and_odd_ones_told_as_source() -> None:
    def default(source: str) -> object:
        return workflows.parse("a", f"def run(x={source}): pass").parameters[0].default

    assert default("[1, (2, None)]") == [1, [2, None]]
    assert default("...") == "..."
    assert default("{1, 2}") == "{1, 2}"
    assert default("os.environ['HOME']") == "os.environ['HOME']"
    long = default(repr("x" * 5000))
    assert isinstance(long, str)
    assert len(long) == workflows.MAX_DEFAULT + 3
