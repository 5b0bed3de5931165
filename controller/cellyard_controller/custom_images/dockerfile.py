"""Reads an operator's Dockerfile, and refuses what cannot be built offline or would not be a sandbox's: pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from cellyard_controller.custom_images.errors import BadInput

ENVIRONMENT = "cellyard-environment"
"""What stands for the environment of Python kernels in FROM, the agent not in it; `:3.13` chooses another Python."""
_BEGIN = "USER 0\nLABEL cellyard.image=part\n"
"""What each stage begins with: whatever its image says, steps run as root; and by the label it is found and removed."""
_REFUSED = {
    "ENTRYPOINT": "a sandbox starts the kernel agent and nothing before it",
    "CMD": "a sandbox starts the kernel agent",
    "USER": "steps run as root, and each sandbox has a user of its own",
    "VOLUME": "a sandbox writes to its home and /tmp alone",
    "HEALTHCHECK": "the kernel agent answers for the sandbox",
    "ONBUILD": "nothing is built on it but the kernel agent",
}
_KNOWN = frozenset({"ADD", "ARG", "COPY", "ENV", "EXPOSE", "FROM", "LABEL", "RUN", "SHELL", "STOPSIGNAL", "WORKDIR"})
_COMMENT = re.compile(r"\s*#")


@dataclass(frozen=True, slots=True)
class _Step:
    line: int
    name: str
    words: tuple[str, ...]
    text: str
    """As it stands in the file, all of its lines."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A Dockerfile that can be built."""

    steps: tuple[_Step, ...]
    bases: dict[str, str]
    """The images that it begins with, by name, each with the file and line where it stands first."""
    last: str
    """What its last stage begins with, at the end of the chain of stages."""

    def text(self, exact: Callable[[str], str]) -> str:
        """The Dockerfile, with `exact` for the name of each image."""
        return "".join(_written(step, self.bases, exact) for step in self.steps)


def read(text: str, name: str) -> Recipe:
    """A Dockerfile of this name. Raises BadInput."""
    steps = tuple(_steps(text))
    stages: dict[str, str] = {}
    bases: dict[str, str] = {}
    last = ""
    for step in steps:
        where = f"{name}, line {step.line}"
        if step.name in _REFUSED:
            raise BadInput(f"{where}: {step.name} is refused: {_REFUSED[step.name]}; leave it out")
        if step.name not in _KNOWN:
            raise BadInput(f"{where}: {step.name[:40]} is no instruction that is known here")
        if step.name == "FROM":
            image, stage = _from(step, where)
            last = stages.get(image.lower(), image)
            if image.lower() not in stages:
                bases.setdefault(image, where)
            stages[str(len([each for each in steps if each.name == "FROM" and each.line < step.line]))] = last
            if stage:
                stages[stage.lower()] = last
        elif not last and step.name != "ARG":
            raise BadInput(f"{where}: {step.name} comes before FROM: begin with `FROM {ENVIRONMENT}`")
        elif step.name in ("ADD", "COPY"):
            _check_sources(step, where, stages)
    if not last:
        raise BadInput(f"{name} has no FROM: begin with `FROM {ENVIRONMENT}`")
    return Recipe(steps, bases, last)


def _steps(text: str) -> Iterator[_Step]:
    begun, lines = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if _COMMENT.match(line) or not line.strip():
            continue
        begun = begun or number
        lines.append(line)
        if line.rstrip().endswith("\\"):
            continue
        yield _step(begun, lines)
        begun, lines = 0, []
    if lines:
        yield _step(begun, lines)


def _step(number: int, lines: list[str]) -> _Step:
    words = " ".join(line.rstrip().removesuffix("\\") for line in lines).split()
    return _Step(number, words[0].upper(), tuple(words[1:]), "\n".join(lines))


def _from(step: _Step, where: str) -> tuple[str, str]:
    """Its image and the stage's name; "" for none."""
    match [word for word in step.words if not word.startswith("--platform=")]:
        case [image]:
            stage = ""
        case [image, word, stage] if word.upper() == "AS":
            pass
        case _:
            raise BadInput(f"{where}: FROM is `FROM IMAGE` or `FROM IMAGE AS STAGE`")
    if "$" in image:
        raise BadInput(f"{where}: FROM has to name its image outright, without variables")
    return image, stage


def _check_sources(step: _Step, where: str, stages: dict[str, str]) -> None:
    for word in step.words:
        source = word.removeprefix("--from=")
        if source != word and source.lower() not in stages:
            raise BadInput(f"{where}: --from={source} is no stage of this file: begin one with FROM and that name")
        if step.name == "ADD" and ("://" in word or word.startswith("git@")):
            raise BadInput(f"{where}: builds have no network: fetch {word} before, and COPY it from --context")


def _written(step: _Step, bases: Collection[str], exact: Callable[[str], str]) -> str:
    if step.name != "FROM":
        return f"{step.text}\n"
    image, stage = _from(step, "")
    named = exact(image) if image in bases else image
    return f"FROM {named} AS {stage}\n{_BEGIN}" if stage else f"FROM {named}\n{_BEGIN}"
