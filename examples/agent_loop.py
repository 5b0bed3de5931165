"""An agent's loop: a model proposes code, a sandbox runs it, and what came of it goes back to the model.

    python examples/agent_loop.py

`model` is a stub that answers by what it has seen, so that the example needs no account: put your model in its place.
It makes a mistake first, as models do, and mends it when it reads the error. The code runs in a container that was
proven to be one and to have no network (`require`); the only way out is the function that this program offers to it
(`host_calls`). Variables last from step to step. The loop ends with an answer, or after `STEPS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cellyard

STEPS = 5
TASK = "Which project has the most open issues for each thousand lines of code?"
ISSUES = {"sieve": 12, "anvil": 90, "loom": 31}
LINES = {"sieve": 4_000, "anvil": 60_000, "loom": 7_500}


@dataclass(frozen=True)
class Code:
    """What the model wants to be run."""

    source: str


@dataclass(frozen=True)
class Answer:
    """What the model has to say in the end."""

    text: str


def model(task: str, seen: list[str]) -> Code | Answer:
    """Stands for a model: decides by what the steps so far have shown."""
    if not seen:
        return Code(
            "from cellyard_sandbox import host\n"
            "issues = {name: host.issues(name) for name in ('sieve', 'anvil', 'loom')}\n"
            "lines = {name: host.lines(name) for name in issues}\n"
            "{name: issues[name] / line_count[name] for name in issues}"
        )
    if "NameError" in seen[-1]:  # what ran before the mistake is still there
        return Code(
            "density = {name: 1000 * issues[name] / lines[name] for name in issues}\nmax(density, key=density.get)"
        )
    return Answer(f"It is {seen[-1].removeprefix('value: ')}.")


def issues(project: str) -> int:
    """How many issues are open. Runs in this program, with its rights."""
    return ISSUES[project]


def lines(project: str) -> int:
    """How many lines of code there are."""
    return LINES[project]


def feedback(result: cellyard.ExecutionResult) -> str:
    """What the model is told of a run: its text cut to what a model can take, or the last lines of its error."""
    if result.error is not None:
        return f"{result.error.ename}: {result.error.evalue}"
    return f"value: {result.value}" if result.value is not None else result.text[-2000:]


def main() -> None:
    """Runs the loop."""
    seen: list[str] = []
    with cellyard.Session(require={"container_isolation", "network_isolation"}) as session:
        for step in range(1, STEPS + 1):
            wanted = model(TASK, seen)
            if isinstance(wanted, Answer):
                print(f"answer: {wanted.text}")
                return
            try:
                result = session.run(wanted.source, timeout_secs=30, host_calls=[issues, lines])
                seen.append(feedback(result))
            except cellyard.ExecutionTimeout as slow:
                seen.append(f"it took too long: {slow}")
            print(f"step {step}: {seen[-1]}")
    print("no answer: the model has used up its steps")


if __name__ == "__main__":
    main()
