"""An image of one's own: files and settings that sandboxes have from the start.

    python examples/custom_image.py

`cellyard images build` makes it from a Dockerfile that begins with `FROM cellyard-environment`: this release's
interpreter, packages and kernel agent. No step has a network, and nothing is pulled; what a step needs comes with
`--context` (packages with `--requirements`, which are downloaded outside of the build). A template then names the
image. Templates are the operator's: the example starts a controller with one, on a socket of its own, and removes the
image in the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cellyard

NAME = f"example-words-{os.getpid()}"  # so that two who try this at the same time do not meet
DOCKERFILE = """
FROM cellyard-environment
COPY words.json /opt/words/words.json
ENV WORDS=/opt/words/words.json
"""
CODE = """
import json, os
words = json.load(open(os.environ["WORDS"]))
try:
    open(os.environ["WORDS"], "w")
except OSError as error:
    refused = error.strerror
words["greeting"], refused
"""


def cellyard_command(*arguments: str) -> str:
    """Runs a command of Cellyard's; what it prints."""
    command = [sys.executable, "-m", "cellyard.cli", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def build(folder: Path) -> str:
    """Builds the image; its reference."""
    context = folder / "context"
    context.mkdir()
    (context / "words.json").write_text(json.dumps({"greeting": "good morning"}))
    (folder / "Dockerfile").write_text(DOCKERFILE)
    files = ("--file", str(folder / "Dockerfile"), "--context", str(context))
    return str(json.loads(cellyard_command("images", "build", NAME, *files, "--json"))["reference"])


@contextmanager
def controller(folder: Path, configuration: str) -> Iterator[str]:
    """A controller with this configuration; its endpoint."""
    (folder / "cellyard.toml").write_text(configuration)
    endpoint = f"unix:{folder}/c.sock"
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "cellyard.cli", "serve", "--data", str(folder / "data"), "--listen", endpoint]
    command += ["--config", str(folder / "cellyard.toml"), "--pool", "0", "--ready-fd", str(writer)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(writer,))
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as ready:
            if ready.read() != b"ready\n":
                raise RuntimeError((folder / "log").read_text())
        yield endpoint
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Builds, serves, uses, removes."""
    with tempfile.TemporaryDirectory(prefix="cy") as name:
        folder = Path(name)
        reference = build(folder)
        print(f"built {reference.partition(':')[0]}")
        try:
            template = f'[templates.words]\nimage = "{reference}"\nmemory = {512 * 1024**2}\nhome = {64 * 1024**2}\n'
            with (
                controller(folder, template) as endpoint,
                cellyard.Session(endpoint=endpoint, template="words") as session,
            ):
                greeting, refused = session.run(CODE).value
                print(f"the image says {greeting!r}; writing to it: {refused}")
        finally:
            cellyard_command("images", "remove", NAME)


if __name__ == "__main__":
    main()
