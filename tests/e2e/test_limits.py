"""Each limit of a sandbox, reached: the client reads what happened, and what the limit was."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellyard
from tests.controller_process import Process

pytestmark = pytest.mark.docker

MIB = 1024 * 1024
TEMPLATE = f"""
[templates.default]
memory = {256 * MIB}
pids = 64
cpus = 0.5
home = {32 * MIB}
tmp = {16 * MIB}
shm = {16 * MIB}
[limits]
output_bytes = {MIB}
output_count = 500
"""


@pytest.fixture(scope="module")
def limited(built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller whose sandboxes have little of everything."""
    process = Process(module_folder)
    config = module_folder / "cellyard.toml"
    config.write_text(TEMPLATE)
    process.start(env={"CELLYARD_CONFIG": str(config)})
    yield process
    process.close()


@pytest.fixture
def box(limited: Process) -> Iterator[cellyard.Session]:
    with cellyard.Session(endpoint=limited.endpoint) as session:
        session.start_kernel()
        yield session


def run(box: cellyard.Session, code: str) -> tuple[cellyard.ExecutionResult, dict[str, cellyard.Warned]]:
    """Runs a cell. Returns its result and what was warned of, by kind; each kind at most once."""
    warned: dict[str, cellyard.Warned] = {}
    for event in box.stream_execute(code=code):
        if isinstance(event, cellyard.Warned):
            assert event.kind not in warned
            warned[event.kind] = event
        elif isinstance(event, cellyard.Finished):
            return event.result, warned
    raise AssertionError("a stream ends with its result")


def test_a_kernel_that_takes_too_much_memory_is_killed_and_says_so(box: cellyard.Session) -> None:
    result, _ = run(box, "x = bytearray(400 * 2**20)")
    assert (result.end, result.end_reason) == ("lost", "oom")
    assert result.end_message.startswith(
        "oom: the sandbox used up its memory limit of 256.0 MiB (process python3, pid "
    )
    assert result.end_message.endswith(", was killed)")
    assert result.error.ename == "KernelDied"
    assert result.error.evalue == result.end_message
    assert box.run("1 + 1").value == 2


def test_memory_that_is_nearly_used_up_is_warned_of_once(box: cellyard.Session) -> None:
    fill = (
        "import os, time\nblocks = []\n"
        "v1, v2 = '/sys/fs/cgroup/memory/memory.usage_in_bytes', '/sys/fs/cgroup/memory.current'\n"
        "def used():\n    return int(open(v1 if os.path.exists(v1) else v2).read())\n"
        "while used() < 0.93 * 256 * 2**20: blocks.append(b'x' * 2**20)\n"
        "time.sleep(1.5)"
    )
    result, warned = run(box, fill)
    assert result.success
    warning = warned["memory"]
    assert "of 256.0 MiB of memory are used" in warning.message
    assert int(warning.details["limit"]) == 256 * MIB
    assert int(warning.details["used"]) >= 0.9 * 256 * MIB
    _, again = run(box, "time.sleep(1)")
    assert "memory" not in again


def test_a_child_that_is_killed_for_its_memory_is_told_to_whoever_runs_the_cell(box: cellyard.Session) -> None:
    result, warned = run(
        box, "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'bytearray(400 * 2**20)']).returncode"
    )
    assert result.value == -9
    assert warned["oom"].message == "a process was killed: the sandbox used up its memory limit of 256.0 MiB"


def test_a_command_that_is_killed_for_its_memory_ends_with_its_signal(box: cellyard.Session) -> None:
    box.restart_kernel()  # one that has been large might be chosen instead
    assert box.exec(["python3", "-c", "bytearray(400 * 2**20)"]).signal == 9
    assert box.run("1").value == 1


FORKS = """
import os, time
children = []
try:
    while True:
        child = os.fork()
        if child == 0:
            time.sleep(0.5)
            os._exit(0)
        children.append(child)
except BlockingIOError as refused:
    print(refused)
for child in children:
    os.waitpid(child, 0)
"""


def test_processes_that_are_refused_are_told_with_their_limit(box: cellyard.Session) -> None:
    result, warned = run(box, FORKS)
    assert result.success
    assert "temporarily unavailable" in result.stdout
    assert warned["pids"].message == "no more processes and threads were allowed: their limit is 64"
    assert warned["pids"].details["limit"] == "64"


def test_a_sandbox_that_is_held_back_says_how_many_processors_it_has(box: cellyard.Session, limited: Process) -> None:
    # So little that even a machine on which nineteen others want to run has more for it, and its limit is what counts.
    (container,) = limited.containers()
    subprocess.run(["docker", "update", "--cpus", "0.05", container.id], check=True, capture_output=True)
    result, warned = run(
        box,
        "import subprocess, sys\nburn = 'import time\\nend = time.time() + 4\\nwhile time.time() < end: pass'\n"
        "burning = [subprocess.Popen([sys.executable, '-c', burn]) for _ in range(3)]\n"
        "[process.wait() for process in burning]",
    )
    assert result.success
    assert warned["cpu"].details["limit"] == "0.05"
    assert int(warned["cpu"].details["held_back"]) >= 5
    assert "its limit of processors is 0.05" in warned["cpu"].message


FILL = """
import time, errno
with open({path!r}, 'wb', buffering=0) as file:
    try:
        while True: file.write(b'x' * 2**16)
    except OSError as full:
        print(full, full.errno == errno.ENOSPC)
time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("folder", "limit"), [("/home/sandbox", "32.0"), ("/tmp", "16.0"), ("/dev/shm", "16.0")], ids=["home", "tmp", "shm"]
)
def test_a_full_disk_is_told_with_its_size(box: cellyard.Session, folder: str, limit: str) -> None:
    result, warned = run(box, FILL.format(path=f"{folder}/fill"))
    assert result.stdout == "[Errno 28] No space left on device True\n"
    assert warned["disk"].message == f"{folder} is full: {limit} MiB of {limit} MiB are used"
    assert warned["disk"].details["folder"] == folder
    usage = box.run(
        f"import os, shutil\nused = shutil.disk_usage({folder!r})\nos.remove('{folder}/fill')\n[*used]"
    ).value
    assert usage[0] == float(limit) * MIB
    assert usage[2] == 0


def test_files_that_are_used_up_are_told_with_their_number(box: cellyard.Session) -> None:
    result, warned = run(
        box,
        "import time\ntry:\n    for n in range(10**6): open(f'f{n}', 'w').close()\n"
        "except OSError as full: print(full.errno)\ntime.sleep(0.1)",
    )
    assert result.stdout == "28\n"
    assert warned["inodes"].message == "/home/sandbox is full: 4096 of 4096 files and folders are used"


def test_open_files_end_with_an_error_in_the_code_which_can_read_the_limit(box: cellyard.Session) -> None:
    result, _ = run(
        box,
        "import os, resource\nopened = []\ntry:\n    while True: opened.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError as refused: print(refused.errno, len(opened) < 4096)\n"
        "for file in opened: os.close(file)\nresource.getrlimit(resource.RLIMIT_NOFILE)",
    )
    assert result.stdout == "24 True\n"
    assert result.value == (4096, 4096)


def test_a_file_that_grows_past_all_that_is_writable_ends_with_an_error_in_the_code(box: cellyard.Session) -> None:
    result, _ = run(
        box,
        "import os\ntry: os.truncate(os.open('a', os.O_CREAT | os.O_RDWR), 2**40)\nexcept OSError as e: print(e.errno)",
    )
    assert result.stdout == "27\n"


@pytest.mark.parametrize(
    "code", ["print('x' * 3 * 2**20)", "for n in range(1_000): display(n)"], ids=["bytes", "messages"]
)
def test_output_past_its_limits_is_cut_with_a_notice(box: cellyard.Session, code: str) -> None:
    result, warned = run(box, code)
    assert result.success
    assert "[cellyard: output truncated after " in result.stdout
    assert warned["output"].message == "the output was cut: its limits are 1.0 MiB and 500 outputs"
    assert warned["output"].details == {"limit_bytes": str(MIB), "limit_outputs": "500"}


def test_a_cell_that_takes_too_long_says_how_long_it_was_given(box: cellyard.Session) -> None:
    with pytest.raises(cellyard.ExecutionTimeout, match="timed out after 1 s") as late:
        box.run("import time\ntime.sleep(600)", timeout_secs=1)
    assert late.value.details["timeout_s"] == 1
    assert late.value.result.end == "timed_out"
    assert late.value.result.end_message == "timed out after 1 s"
    assert box.get_execution(late.value.execution_id).end_message == "timed out after 1 s"


def test_a_cell_that_ignores_its_end_says_what_became_of_it(box: cellyard.Session) -> None:
    ignore = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    with pytest.raises(cellyard.ExecutionTimeout) as late:
        box.run(ignore, timeout_secs=1)
    assert late.value.result.end_reason == "kernel_restarted"
    assert late.value.result.end_message == "timed out after 1 s; it ignored its interrupt and the kernel was restarted"


def test_a_life_that_is_over_says_how_long_it_was(limited: Process) -> None:
    with cellyard.Session(endpoint=limited.endpoint, ttl=6) as box:
        result, _ = run(box, "import time\ntime.sleep(600)")
        assert (result.end, result.end_reason) == ("lost", "ttl")
        assert result.error.evalue == "ttl: the kernel has reached its ttl of 6 s"


def test_an_idle_sandbox_ends_and_one_that_a_command_uses_does_not(limited: Process) -> None:
    with cellyard.Session(endpoint=limited.endpoint, idle_timeout=2) as box:
        box.run("x = 1")
        assert box.exec(["sleep", "4"]).success
        assert box.run("x").value == 1
        for event in box.watch():
            kernel = event.kernel if isinstance(event, cellyard.KernelChanged | cellyard.Snapshot) else None
            if kernel is not None and kernel.state == "dead":
                assert kernel.end_reason == "idle"
                break


def test_a_cell_that_does_not_start_in_time_says_how_long_it_waited(limited: Process) -> None:
    with cellyard.Session(endpoint=limited.endpoint, start_timeout=8) as box:
        first = box.create_cell("import time\ntime.sleep(600)")
        box.queue_cell(first)
        with pytest.raises(cellyard.ExecutionTimeout, match="did not start within its start_timeout of 8 s"):
            box.run("1")
