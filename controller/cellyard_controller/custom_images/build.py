"""Builds an operator's image: their Dockerfile, what they require, the kernel agent; and looks whether it runs."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import requests as http
from docker import DockerClient
from docker.errors import APIError, DockerException

from cellyard_controller.custom_images import dockerfile, requirements
from cellyard_controller.custom_images.errors import BadInput
from cellyard_controller.runtimes import PYTHONS, USUAL_PYTHON
from cellyard_controller.runtimes.docker import building, images, wheels
from cellyard_controller.runtimes.docker.building import ImageBuildFailed, OnStep, Report, timed

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_REFERENCE = re.compile(r"[a-z0-9]+(?:[._/-][a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?")
_NEWEST_GLIBC = 40
"""Of those that uv has a name for; whatever is newer runs wheels for it too."""
_TELL = (
    "import json, platform, sys\n"
    "print(json.dumps(['%d.%d' % sys.version_info[:2], *platform.libc_ver(), platform.machine()]))"
)
_CHECK = "import IPython, cellyard_sandbox.agent, cellyard_sandbox.python_kernel.kernel"
_FOLDER = "custom"
_RUN_WITHIN = 60


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator wants built."""

    name: str
    dockerfile: dockerfile.Recipe
    requirements: list[str] = field(default_factory=list)
    context: Path | None = None
    """A folder whose files the Dockerfile may copy."""
    tag: str = ""
    """One more name for the image."""
    index: str = ""
    """The package index' URL, in place of the usual ones of uv and pip."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image, ready for a template."""

    reference: str
    python: str
    packages: list[str]
    """What was added for the requirements, like tiny==1.0."""
    new: bool
    """False where the very same was there already."""


def check_name(name: str) -> str:
    """Raises BadInput for what cannot be part of an image's name."""
    if len(name) > 60 or not _NAME.fullmatch(name):
        raise BadInput(f"{name[:80]!r} is no name for an image: small letters and digits, with . _ - between them")
    return name


def check_tag(tag: str) -> str:
    """One more name for an image, "" for none. Raises BadInput."""
    if tag and not _REFERENCE.fullmatch(tag):
        raise BadInput(f"{tag[:80]!r} is no name for an image: it is like science:1")
    return tag


def repository(name: str) -> str:
    """Where images of this name stand."""
    return f"cellyard-custom-{name}"


def build(order: Order, client: DockerClient, report: Report, on_step: OnStep | None = None) -> Built:
    """Builds what is missing and names it. Raises BadInput, RuntimeFailed; nothing is left then."""
    with building.alone(report):
        try:
            return _build(order, client, report, on_step)
        except (DockerException, http.RequestException) as error:
            raise ImageBuildFailed(f"the engine failed while building {order.name}: {error}. Try again") from error
        finally:
            client.images.prune(filters={"dangling": True, "label": "cellyard.image"})


def remove(name: str, client: DockerClient) -> list[str]:
    """Removes all images of this name and returns what they were called. Raises BadInput, RuntimeFailed."""
    found = images.list_custom(client, name)
    if not found:
        raise BadInput(f"there is no image called {name!r}: `cellyard images list` shows those that there are")
    for image in found:
        try:
            client.images.remove(image.reference)
        except APIError as refused:
            raise ImageBuildFailed(f"{image.reference} is not removed: {refused.explanation or refused}") from refused
    return [image.reference for image in found]


def _build(order: Order, client: DockerClient, report: Report, on_step: OnStep | None) -> Built:
    exact = {image: _exact(image, where, client, report) for image, where in order.dockerfile.bases.items()}
    text = order.dockerfile.text(exact.__getitem__)
    context: dict[str, Path | bytes] = _files(order.context) if order.context else {}
    with timed(report, "Dockerfile"):
        report("building the Dockerfile")
        base = building.build(client, "", {**context, "Dockerfile": text.encode()}, {}, on_step)
    python, target, glibc = _python_of(base, client)
    lock = ""
    if order.requirements:
        report("choosing packages")
        family = _family(order.dockerfile.last)
        lock = requirements.pin(order.requirements, target, images.lock(family) if family else "", order.index)
    reference = _reference(order.name, text, context, lock)
    new = not images.present(client, reference)
    if new:
        if lock:
            base = _add_requirements(order, base, lock, target, glibc, client, report, on_step)
        report("adding the kernel agent")
        image = images.add_agent(client, "", base, on_step, **{images.CUSTOM_LABEL: order.name})
        _check(image, client)
        client.images.get(image).tag(*reference.split(":"))
    for name in (f"{repository(order.name)}:latest", order.tag):
        if name:
            client.images.get(reference).tag(*_split(name))
    return Built(reference, python, requirements.pins(lock), new)


def _exact(image: str, where: str, client: DockerClient, report: Report) -> str:
    """What stands for an image in FROM. Raises BadInput."""
    name, _, tag = image.partition(":")
    if name == dockerfile.ENVIRONMENT:
        if tag and tag not in PYTHONS:
            raise BadInput(f"{where}: {image}: this release has Python {', '.join(PYTHONS)}")
        return images.environment(report, client=client, kernel_type=images.family(tag or USUAL_PYTHON))
    if not images.present(client, image):
        raise BadInput(
            f"{where}: the engine has no image {image}, and builds fetch none: begin with "
            f"`FROM {dockerfile.ENVIRONMENT}`, or load it there first"
        )
    return str(client.images.get(image).id)


def _family(image: str) -> str:
    """Which of our environments this is in FROM; "" for none."""
    name, _, tag = image.partition(":")
    return images.family(tag or USUAL_PYTHON) if name == dockerfile.ENVIRONMENT else ""


def _reference(name: str, text: str, context: dict[str, Path | bytes], lock: str) -> str:
    files = [part for path, source in sorted(context.items()) for part in (path.encode(), _content(source))]
    recipe = [part for part in building.contents(images.images_folder() / _FOLDER) if lock]
    parts = [text.encode(), lock.encode(), *recipe, images.agent_version().encode()]
    return building.named(repository(name), *parts, *files)


def _content(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _files(folder: Path) -> dict[str, Path | bytes]:
    """All files of a folder, but for what versioning keeps there."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    names = ((file.relative_to(folder), file) for file in found)
    return {str(name): file for name, file in names if ".git" not in name.parts}


def _python_of(image: str, client: DockerClient) -> tuple[str, requirements.Target, int]:
    """The interpreter of an image, as it tells itself. Raises ImageBuildFailed."""
    said = _run(image, _TELL, client, "has no python3 on its path that starts")
    try:
        python, libc, version, machine = json.loads(said)
        glibc = int(version.split(".")[1])
    except (ValueError, IndexError):
        raise ImageBuildFailed(f"what the image's python3 says of itself makes no sense: {said[:200]!r}") from None
    if libc != "glibc":
        raise ImageBuildFailed("the image has another C library than glibc, for which there are no wheels")
    platform = f"{machine}-manylinux_2_{min(glibc, _NEWEST_GLIBC)}"
    return python, requirements.Target(python, platform), glibc


def _add_requirements(
    order: Order,
    base: str,
    lock: str,
    target: requirements.Target,
    glibc: int,
    client: DockerClient,
    report: Report,
    on_step: OnStep | None,
) -> str:
    machine = client.version()["Arch"]
    installer = wheels.fetch([images.images_folder() / "python" / "pip.lock"], machine, report, family="pip")
    fetch = partial(wheels.fetch, machine=machine, report=report, family="custom", python=target.python)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "requirements.lock")
        file.write_text(lock)
        found = fetch([file], glibc=glibc, index=order.index)
    with timed(report, "requirements"):
        report("installing the packages and compiling their bytecode")
        parts = [(images.images_folder() / _FOLDER, ""), (installer, "wheels"), (found, "wheels")]
        context = {**building.context_of(parts), "requirements.lock": lock.encode()}
        return building.build(client, "", context, {"BASE": base}, on_step)


def _check(image: str, client: DockerClient) -> None:
    """Whether a sandbox can start from it. Raises ImageBuildFailed."""
    config = client.images.get(image).attrs["Config"]
    for name in ("Entrypoint", "Volumes"):
        if config.get(name):
            what = f"what the image begins with has {name}, which no sandbox can have"
            raise ImageBuildFailed(f"{what}: begin with `FROM {dockerfile.ENVIRONMENT}`")
    _run(image, _CHECK, client, f"cannot run the kernel agent: begin with `FROM {dockerfile.ENVIRONMENT}`")


def _run(image: str, code: str, client: DockerClient, failing: str) -> str:
    """What a program prints in a container as confined as a sandbox. Raises ImageBuildFailed."""
    container = client.containers.create(
        image,
        ["-c", code],
        entrypoint="python3",
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        user="65534:65534",
        mem_limit="1g",
        pids_limit=256,
    )
    try:
        container.start()
        code_of_exit = container.wait(timeout=_RUN_WITHIN)["StatusCode"]
        said = container.logs(stdout=True, stderr=code_of_exit != 0).decode(errors="replace")
    except APIError as refused:
        raise ImageBuildFailed(f"the image {failing}") from refused
    finally:
        container.remove(force=True, v=True)
    if code_of_exit != 0:
        last = said.strip().rpartition("\n")[2]
        raise ImageBuildFailed(f"the image {failing}. It said: {last[:300] or code_of_exit}")
    return said


def _split(reference: str) -> tuple[str, str]:
    """Repository and tag."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, "latest")
