"""Deno kernels: TypeScript cells in containers, from the SDK to the kernel and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import cellyard
from cellyard_controller.runtimes.docker import images
from tests.controller_process import Process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]

ISOLATED = {"container_isolation", "network_isolation"}
_ATTEMPTS = 4  # a machine may be so busy that a loop does not end before the agent takes it for one that ignores it


@pytest.fixture(scope="module")
def deno_image() -> str:
    """The image of Deno kernels, built where it is missing. What cannot be built fails the tests."""
    with closing(images.connect()) as client:
        return images.build(print, client=client, kernel_type="deno")


@pytest.fixture(scope="module")
def controller(deno_image: str, built_image: str, module_folder: Path) -> Iterator[Process]:
    """A controller for all tests here, which keeps a Deno kernel warm."""
    process = Process(module_folder)
    process.start(env={"CELLYARD_TEMPLATES__DEFAULT__DENO_POOL": "1"})
    yield process
    process.close()


@pytest.fixture(scope="module")
def session(controller: Process) -> Iterator[cellyard.Session]:
    """A session with a Deno kernel; the tests' cells share it."""
    with cellyard.Session(endpoint=controller.endpoint, env={"GREETING": "hello"}) as session:
        session.start_kernel(kernel_type="deno", env_source="deno")
        yield session


def test_warm_kernels_wait_where_the_operator_asks_for_them(controller: Process) -> None:
    with cellyard.Client(endpoint=controller.endpoint) as client:
        (pool,) = client.list_pools()
    assert (pool.template, pool.kernel_type, pool.env_source) == ("default", "deno", "deno")
    assert pool.target >= 1


def test_the_kernel_says_what_it_is_and_keeps_others_out(session: cellyard.Session) -> None:
    assert session.env_source == "deno"
    session.start_kernel("deno")  # one runs
    with pytest.raises(cellyard.KernelMismatch, match="deno kernel runs"):
        session.start_kernel("python")


def test_isolation_is_proven_for_deno_sandboxes_too(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint, require=ISOLATED) as session:
        session.start_kernel("deno")
        assert session.run("Deno.networkInterfaces().map((each) => each.name)").value == ["lo"]
        assert session.run('await fetch("http://example.com/")').error.ename == "TypeError"


def test_other_kernels_and_environments_are_refused(controller: Process) -> None:
    with cellyard.Session(endpoint=controller.endpoint) as other:
        for kernel_type in ("", "ruby", "Deno"):
            with pytest.raises(cellyard.InvalidRequest):
                other.start_kernel(kernel_type)
        with pytest.raises(cellyard.InvalidRequest, match="env_source 'deno'"):
            other.start_kernel("python", "deno")
        with pytest.raises(cellyard.InvalidRequest):
            other.start_kernel("deno", "nonsense")
    with (
        cellyard.Session(endpoint=controller.endpoint, runtime="process") as bare,
        pytest.raises(cellyard.CapabilityUnavailable),
    ):
        bare.start_kernel("deno")


def test_typescript_runs_with_its_state_types_and_awaits(session: cellyard.Session) -> None:
    assert session.run("interface Point { x: number }\nconst p: Point = { x: 20 };\np.x + 1").value == 21
    later = session.run("const y = await Promise.resolve(p.x * 2); y + 2")
    assert later.value == 42
    assert later.outputs[-1].data["text/plain"] == "42"
    assert later.execution_count is not None
    assert session.run('import { join } from "node:path"; join("a", "b")').value == "a/b"
    assert session.run('[Deno.env.get("GREETING"), Deno.cwd(), Deno.env.get("HOME")]').value == [
        "hello",
        "/home/sandbox",
        "/home/sandbox",
    ]


def test_values_come_as_data_where_they_are_some(session: cellyard.Session) -> None:
    data = session.run("({ a: [1, 2.5, true, null, 'x'], big: [2n ** 70n], bytes: new Uint8Array([1, 2]), $k: 1 })")
    assert data.value == {"a": [1, 2.5, True, None, "x"], "big": [2**70], "bytes": b"\x01\x02", "$k": 1}
    assert session.run("({ $int: '1' })").value == {"$int": "1"}, "no tag can be forged by accident"
    assert session.run("new Map([['k', new Map()]])").value == {"k": {}}
    assert session.run("undefined").value is None
    cyclic = session.run("const cyclic: any = {}; cyclic.itself = cyclic; cyclic")
    assert cyclic.value_is_repr
    assert "Circular" in cyclic.value


def test_everything_shown_is_there_in_its_order(session: cellyard.Session) -> None:
    result = session.run(
        'console.log("one");\n'
        "await Deno.jupyter.display(Deno.jupyter.html`<b>two</b>`);\n"
        'Deno.stdout.writeSync(new TextEncoder().encode("three\\n"));\n'
        'console.error("four");\n'
        "Deno.jupyter.md`# five`"
    )
    assert [(each.output_type, each.name, each.text) for each in result.outputs if each.output_type == "stream"] == [
        ("stream", "stdout", "one\n"),
        ("stream", "stdout", "three\n"),
        ("stream", "stderr", "four\n"),
    ]
    assert [each.output_type for each in result.outputs] == [
        "stream",
        "display_data",
        "stream",
        "stream",
        "execute_result",
    ]
    assert result.outputs[1].data == {"text/html": "<b>two</b>"}
    assert result.outputs[4].data == {"text/markdown": "# five"}


def test_a_display_is_updated_where_it_stands(session: cellyard.Session) -> None:
    session.run('await Deno.jupyter.display({ "text/plain": "before" }, { raw: true, display_id: "bar" })')
    shown = session.get_cells()[-1].id
    session.run('await Deno.jupyter.display({ "text/plain": "after" }, { raw: true, display_id: "bar", update: true })')
    assert session.get_cell(shown).outputs[0].data == {"text/plain": "after"}


def test_errors_have_a_stack_and_say_where_a_source_cannot_be_parsed(session: cellyard.Session) -> None:
    failed = session.run('function inner() { throw new RangeError("too far") }\nfunction outer() { inner() }\nouter()')
    assert failed.end == "failed"
    assert (failed.error.ename, failed.error.evalue) == ("RangeError", "too far")
    assert [line.split()[1] for line in failed.error.traceback[1:3]] == ["inner", "outer"]

    unparsed = session.run("const fine = 1;\nlet broken = ;")
    assert (unparsed.error.ename, unparsed.error.evalue) == ("SyntaxError", "Expression expected")
    assert any("2 | let broken = ;" in line for line in unparsed.error.traceback)
    assert session.run("typeof fine").value == "undefined", "nothing of it has run"
    assert session.run("function unfinished( {").error.ename == "SyntaxError"


def test_what_nobody_catches_is_told_and_the_kernel_lives(session: cellyard.Session) -> None:
    rejected = session.run("const survives = 1; Promise.reject(new TypeError('nobody cares')); 'done'")
    thrown = session.run(
        "await new Promise((go) => { setTimeout(() => { setTimeout(go, 1); throw new Error('in a timer') }, 1) })"
    )
    assert rejected.value == "done"
    assert "Uncaught (in promise) TypeError: nobody cares" in rejected.stderr
    assert thrown.success
    assert "Uncaught Error: in a timer" in thrown.stderr
    assert session.run("survives").value == 1


def test_what_a_cell_leaves_rejected_is_told_as_its_own_output(session: cellyard.Session) -> None:
    for number in range(30):
        rejected = session.run(f"Promise.reject(new Error('number {number}')); {number}")
        assert rejected.value == number
        assert f"Uncaught (in promise) Error: number {number}" in rejected.stderr


def test_floods_and_huge_values_cost_their_own_cell_alone(session: cellyard.Session) -> None:
    flood = session.run("console.log('x'.repeat(2 ** 25)); 7")
    assert flood.value == 7
    assert "output truncated" in flood.stdout
    shown = session.run('Deno.jupyter.html(["é".repeat(3_000_000)])')
    assert len(shown.outputs[0].data["text/html"]) == 3_000_000
    assert len(session.run('"é".repeat(300_000)').value) == 300_000
    assert len(session.run("throw new Error('e'.repeat(3_000_000))").error.evalue) == 3_000_000
    assert session.run("for (let i = 0; i < 20_000; i++) console.log(i)").stdout.splitlines()[-1] == "19999"
    assert session.run("1").value == 1


def test_programs_can_be_started(session: cellyard.Session) -> None:
    assert session.run('new Deno.Command("id", { args: ["-u"] }).outputSync().success').value is True


def test_questions_are_asked_and_completion_is_answered(session: cellyard.Session) -> None:
    session.run("const completable = { answer: 42 };")
    completion = session.complete("completab")
    assert completion.matches == ["completable"]
    assert session.complete("completable.an").matches == ["answer"]
    assert session.inspect("completable") is None, "Deno knows nothing to say here"
    assert session.run('prompt("name")', on_input=lambda prompt: f"{prompt}?").value == "name?"
    assert session.run('prompt("name")').value is None


def run_and_interrupt(session: cellyard.Session, source: str) -> cellyard.ExecutionResult:
    going = threading.Event()
    results: list[cellyard.ExecutionResult] = []
    running = threading.Thread(target=lambda: results.append(session.run(source, on_output=lambda _: going.set())))
    running.start()
    assert going.wait(60)
    session.interrupt()
    running.join(60)
    return results[0]


@pytest.mark.parametrize(
    "source", ["console.log('go'); while (true) {}", "while (true) console.log('go')"], ids=["loop", "flood"]
)
def test_an_interrupt_ends_a_loop_and_keeps_the_state(session: cellyard.Session, source: str) -> None:
    for _ in range(_ATTEMPTS):
        session.run("globalThis.kept = 1")
        result = run_and_interrupt(session, source)
        assert result.end == "interrupted"
        if result.end_reason != "kernel_restarted":
            break
    assert result.error.ename == "Interrupted"
    assert [session.run("kept").value for _ in range(3)] == [1, 1, 1]


def test_an_interrupt_of_an_await_restarts_the_kernel_and_the_next_cell_is_told(session: cellyard.Session) -> None:
    session.run("globalThis.kept = 1")
    result = run_and_interrupt(session, "console.log('go'); await new Promise(() => {})")
    assert (result.end, result.end_reason) == ("interrupted", "kernel_restarted")
    events = list(session.stream_execute(code="typeof globalThis.kept"))
    (warning,) = [event for event in events if isinstance(event, cellyard.Warned)]
    assert warning.kind == "new_kernel"
    assert warning.details == {"reason": "kernel_restarted"}
    assert isinstance(events[-1], cellyard.Finished)
    assert events[-1].result.value == "undefined"
    assert events[-1].result.execution_count == 1
    assert not [e for e in session.stream_execute(code="1") if isinstance(e, cellyard.Warned)], "it is told once"


def test_a_timeout_ends_a_loop_and_keeps_the_state(session: cellyard.Session) -> None:
    for _ in range(_ATTEMPTS):
        session.run("globalThis.kept = 2")
        with pytest.raises(cellyard.ExecutionTimeout) as timed_out:
            session.run("while (true) {}", timeout_secs=0.5)
        assert timed_out.value.result.end == "timed_out"
        if timed_out.value.result.end_reason != "kernel_restarted":
            break
    assert session.run("kept").value == 2


def test_code_that_ends_its_kernel_loses_that_kernel_alone(session: cellyard.Session) -> None:
    ended = session.run("console.log('bye'); Deno.exit(3)")
    assert (ended.end, ended.end_reason) == ("lost", "exit code 3")
    assert ended.stdout == "bye\n"
    assert session.run("1 + 1").value == 2, "the next cell has a new kernel"
    filled = session.run("const held = []; while (true) held.push(new Array(1_000_000).fill(1.5))")
    assert (filled.end, filled.end_reason) == ("lost", "oom")
    assert session.run("1 + 1").value == 2
    assert session.env_source == "deno"
