"""One build of an image: what goes into it, the name that follows from that, and what the engine says."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from docker import DockerClient

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import wheels

_STEP = re.compile(r"Step ([0-9]{1,4})/([0-9]{1,4}) :")

STEP_TIMEOUT = 900
"""Seconds that a step of a build may say nothing."""

Report = Callable[[str], None]
OnStep = Callable[[int, int], None]
"""Is told which of how many steps of a Dockerfile begins."""
Context = Mapping[str, Path | bytes]
"""Files of a build, by the name that they have there."""


class ImageBuildFailed(RuntimeFailed):
    """An image could not be built. The message says why and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__("image_missing", message)


def context_of(parts: Iterable[tuple[Path, str]]) -> dict[str, Path | bytes]:
    """What of these folders goes into an image, each under its name there ("" for the top); the last one counts."""
    return {str(Path(name) / file.relative_to(folder)): file for folder, name in parts for file in files(folder)}


def build(
    client: DockerClient,
    reference: str,
    context: Context,
    arguments: dict[str, str],
    on_step: OnStep | None = None,
    **labels: str,
) -> str:
    """Builds without network and returns the image's id. No `reference`: it has no name. Raises ImageBuildFailed."""
    last_words: list[str] = []
    image = ""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            add_to_context(tar, context)
        file.seek(0)
        answer = client.api.build(
            fileobj=file,
            custom_context=True,
            tag=reference or None,
            buildargs=arguments,
            network_mode="none",
            labels={"cellyard.image": reference or "part", **labels},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=STEP_TIMEOUT,
            use_config_proxy=False,
        )
        for message in answer:
            last_words = [*last_words[-20:], message.get("stream", "").strip()]
            if on_step is not None and (step := _STEP.match(last_words[-1])) is not None:
                on_step(int(step[1]), int(step[2]))
            image = (message.get("aux") or {}).get("ID", image)
            if "error" in message:
                said = " | ".join(word for word in last_words if word)[-600:]
                what = reference or "the image"
                raise ImageBuildFailed(f"building {what} failed: {message['error'].strip()}. It said: {said}")
    return image


def add_to_context(tar: tarfile.TarFile, context: Context) -> None:
    """Adds the files with nothing in them that tells who made them, or when."""
    for name, source in context.items():
        if isinstance(source, bytes):
            member = tarfile.TarInfo(name)
            member.size = len(source)
            tar.addfile(_anonymous(member), io.BytesIO(source))
        else:
            tar.add(source, name, recursive=False, filter=_anonymous)


def named(repository: str, *parts: bytes) -> str:
    """A reference whose tag is a digest of these parts."""
    return f"{repository}:{digest(*parts)}"


def digest(*parts: bytes) -> str:
    """Twelve characters that stand for these parts, in this order."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:12]


def contents(folder: Path) -> Iterator[bytes]:
    """Names and contents of what of a folder goes into an image."""
    for file in files(folder):
        yield str(file.relative_to(folder)).encode()
        yield file.read_bytes()


def files(folder: Path) -> list[Path]:
    """What of a folder goes into an image: no bytecode, no stubs or protos, nothing hidden."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file.suffix not in (".pyc", ".pyi", ".proto")
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # The same content gives the same layer, whoever checked it out and when.
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


@contextmanager
def alone(report: Report) -> Iterator[None]:
    """One build at a time for this user: a second one waits, and then finds everything there."""
    folder = wheels.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another build is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def timed(report: Report, what: str) -> Iterator[None]:
    """Tells how long it took, where that was a while."""
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    if taken >= 1.0:
        report(f"{what}: done in {taken:.0f} s")
