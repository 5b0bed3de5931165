"""The images that sandboxes start from, named by their content, built on the engine where they are missing.

Three layers, each a tag of its own: a base (bases.py), an environment (images/python: interpreter, packages;
images/deno: Deno) and on top the agent (images/agent). So a changed agent costs a second, not a new environment.
`python3.13` and the like are the Python image made of another release of Debian, with a lock of its own.
"""

from __future__ import annotations

import importlib.util
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.images import Image

from cellyard_controller.runtimes import PYTHONS, USUAL_PYTHON, RuntimeFailed
from cellyard_controller.runtimes.docker import bases, building, wheels
from cellyard_controller.runtimes.docker.building import ImageBuildFailed, OnStep, Report, timed
from cellyard_controller.runtimes.docker.engine import engine_address, unreachable
from cellyard_controller.runtimes.docker.survey import AGENT_LABEL

BASE = "cellyard-base"
ENVIRONMENT = "cellyard-environment"
PYTHON = "cellyard-python"
DENO = "cellyard-deno"
KERNEL_TYPES = ("python", "deno")
"""The kernels that there are images for, built wherever something is missing."""
FAMILIES = (*KERNEL_TYPES, *(f"python{version}" for version in PYTHONS if version != USUAL_PYTHON))
"""All kinds of images: those, and the Python image with other interpreters, built when they are asked for."""
KEPT = 5
"""So many images of ours stay, the newest: going back to the last change needs no build."""
CUSTOM_LABEL = "cellyard.custom"
"""The label by which an operator's image tells what it is called."""
_AGENT_PACKAGES = ("cellyard_proto", "cellyard_sandbox")


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One image of ours on the engine."""

    reference: str
    size_bytes: int
    created: str
    """As the engine says it: RFC 3339, UTC."""
    expected: bool
    """Whether this release starts its sandboxes from it, or, of an operator's own, whether its agent is this one's."""
    custom: str = ""
    """What an operator calls it; "" for an image of this release."""


@dataclass(frozen=True, slots=True)
class _References:
    base: str
    environment: str
    image: str


def expected_image(kernel_type: str = "python") -> str:
    """The image that this release starts sandboxes with such a kernel from: `cellyard-python:0123456789ab`.

    The tag is a hash over everything that the image is made from, so a present image is the right one. Reads
    some fifty small files: ask once, not for every sandbox.
    """
    return _references(kernel_type).image


def connect(timeout: int = building.STEP_TIMEOUT) -> DockerClient:
    """A client of the engine that DOCKER_HOST names, or of the usual one; the caller closes it.

    For `build` the timeout (seconds) must allow for a step that says nothing while it works. Raises
    RuntimeFailed where no engine answers.
    """
    address = engine_address()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(5.0)
            knock.connect(address)
        client = DockerClient(base_url=f"unix://{address}", timeout=10)
        client.ping()
    except (OSError, DockerException, requests.RequestException) as error:
        raise unreachable(address) from error
    client.api.timeout = timeout
    return client


def family(python: str) -> str:
    """The kind of image with this Python: "python3.13", and "python" for the usual one. Raises ImageBuildFailed."""
    if python not in PYTHONS:
        raise ImageBuildFailed(f"this release has no image with Python {python}: there are {', '.join(PYTHONS)}")
    return "python" if python == USUAL_PYTHON else f"python{python}"


def build(
    report: Report,
    *,
    client: DockerClient,
    install_tools: bool = False,
    kernel_type: str = "python",
    on_step: OnStep | None = None,
) -> str:
    """Builds what is missing of the default template's image for such kernels and returns its reference.

    `kernel_type` is one of FAMILIES.

    `report` is told of each step that takes longer. `install_tools` lets apt install mmdebstrap, as root.
    Raises RuntimeFailed.
    """
    references = _references(kernel_type)
    if present(client, references.image):
        return references.image
    with building.alone(report):
        if present(client, references.image):
            return references.image
        try:
            _build_missing(references, client, report, kernel_type, install_tools=install_tools, on_step=on_step)
            if _references(kernel_type) != references:
                # Its name would promise what it does not hold.
                client.images.remove(references.image)
                raise ImageBuildFailed("sources of the image were changed while it was built: build it again")
            client.images.get(references.image).tag(_repository(kernel_type), "latest")
            _remove_old(client, kernel_type)
        except (DockerException, requests.RequestException) as error:
            raise ImageBuildFailed(f"the engine failed while building images: {error}. Try again") from error
    return references.image


def list_images(client: DockerClient, kernel_types: Sequence[str] = FAMILIES) -> list[BuiltImage]:
    """Our sandbox images on the engine, newest first. Raises RuntimeFailed."""
    images: list[BuiltImage] = []
    for kernel_type in kernel_types:
        expected, repository = expected_image(kernel_type), _repository(kernel_type)
        images += [
            _built(found, tag, expected=tag == expected)
            for found in _listed(client, name=repository)
            for tag in found.tags
            if tag.startswith(f"{repository}:") and not tag.endswith(":latest")
        ]
    return sorted(images, key=lambda image: image.created, reverse=True)


def list_custom(client: DockerClient, name: str = "") -> list[BuiltImage]:
    """Operators' images, or those of one name, newest first: every name that each has. Raises RuntimeFailed."""
    agent = agent_version()
    images = [
        _built(found, tag, expected=found.labels.get(AGENT_LABEL) == agent)
        for found in _listed(client, filters={"label": f"{CUSTOM_LABEL}={name}" if name else CUSTOM_LABEL})
        for tag in found.tags
    ]
    return sorted(images, key=lambda image: image.created, reverse=True)


def _listed(client: DockerClient, **which: Any) -> list[Image]:
    try:
        return list(client.images.list(**which))
    except (DockerException, requests.RequestException) as error:
        raise RuntimeFailed("runtime_lost", f"the engine did not list its images: {error}") from error


def _built(found: Image, tag: str, *, expected: bool) -> BuiltImage:
    custom = found.labels.get(CUSTOM_LABEL, "")
    return BuiltImage(tag, found.attrs["Size"], found.attrs["Created"], expected, custom)


def environment(report: Report, *, client: DockerClient, kernel_type: str) -> str:
    """Builds what is missing of such an image's environment, which has no agent. Raises RuntimeFailed.

    Call it while nobody else builds (building.alone).
    """
    references = _references(kernel_type)
    _build_environment(references, client, report, kernel_type, install_tools=False)
    return references.environment


def lock(kernel_type: str) -> str:
    """What such an image's environment holds."""
    return images_folder().joinpath(kernel_type, "requirements.lock").read_text()


def add_agent(
    client: DockerClient, reference: str, environment: str, on_step: OnStep | None = None, **labels: str
) -> str:
    """Builds an image of an environment and the agent, and returns its id. Raises ImageBuildFailed."""
    parts = [(images_folder() / "agent", "")]
    parts += [(package_folder(name), f"cellyard/{name}") for name in _AGENT_PACKAGES]
    arguments = {"ENVIRONMENT": environment, "AGENT": agent_version()}
    return building.build(client, reference, building.context_of(parts), arguments, on_step, **labels)


def agent_version() -> str:
    """Stands for this release's agent, in the label AGENT_LABEL of images that have it."""
    return building.digest(*_agent_parts())


def _repository(kernel_type: str) -> str:
    return DENO if kernel_type == "deno" else f"{PYTHON}{kernel_type.removeprefix('python')}"


def _release(kernel_type: str) -> bases.Release:
    return bases.RELEASES[_python(kernel_type)]


def _python(kernel_type: str) -> str:
    return kernel_type.removeprefix("python") if kernel_type.startswith("python3") else USUAL_PYTHON


def _folders(kernel_type: str) -> list[Path]:
    """What an environment is made from; of files with the same name the last one."""
    own = images_folder() / kernel_type
    return [images_folder() / "python", own] if kernel_type.startswith("python3") else [own]


def _build_missing(
    references: _References,
    client: DockerClient,
    report: Report,
    kernel_type: str,
    *,
    install_tools: bool,
    on_step: OnStep | None,
) -> None:
    _build_environment(references, client, report, kernel_type, install_tools=install_tools, on_step=on_step)
    with timed(report, "agent"):
        report("adding the kernel agent")
        add_agent(client, references.image, references.environment, on_step)


def _build_environment(
    references: _References,
    client: DockerClient,
    report: Report,
    kernel_type: str,
    *,
    install_tools: bool,
    on_step: OnStep | None = None,
) -> None:
    if present(client, references.environment):
        return
    if not present(client, references.base):
        with timed(report, "base"):
            release = _release(kernel_type)
            bases.make(references.base, client, report, install_tools=install_tools, release=release)
    with timed(report, "packages"):
        folder = images_folder()
        locks = [folder / "python" / "pip.lock", folder / kernel_type / "requirements.lock"]
        python, glibc = _python(kernel_type), _release(kernel_type).glibc
        found = wheels.fetch(locks, client.version()["Arch"], report, family=kernel_type, python=python, glibc=glibc)
    with timed(report, "environment"):
        report("installing the packages and compiling their bytecode (about half a minute)")
        context = building.context_of([*((each, "") for each in _folders(kernel_type)), (found, "wheels")])
        building.build(client, references.environment, context, {"BASE": references.base}, on_step)


def images_folder() -> Path:
    """Where the Dockerfiles and locks are: beside the modules when installed, else in the checkout.

    Raises ImageBuildFailed.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "_images", package.parents[1] / "images"):
        if (folder / "python" / "Dockerfile").is_file():
            return folder
    raise ImageBuildFailed(f"the files that images are built from are missing beside {package}: install cellyard again")


def package_folder(name: str) -> Path:
    """Where one of the packages that belong in the image lies. Raises ImageBuildFailed."""
    # Located, not imported: the agent's code belongs in the sandbox, and only its files matter here.
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ImageBuildFailed(f"the package {name}, which belongs in the image, is missing: install cellyard again")
    return Path(next(iter(spec.submodule_search_locations)))


def _references(kernel_type: str) -> _References:
    base = building.named(BASE, _release(kernel_type).recipe.encode())
    installer = (images_folder().joinpath("python", "pip.lock").read_bytes(),) if kernel_type == "deno" else ()
    made_from = [content for folder in _folders(kernel_type) for content in building.contents(folder)]
    environment = building.named(ENVIRONMENT, base.encode(), *made_from, *installer)
    image = building.named(_repository(kernel_type), environment.encode(), *_agent_parts())
    return _References(base, environment, image)


def _agent_parts() -> Iterable[bytes]:
    folders = [images_folder() / "agent", *(package_folder(name) for name in _AGENT_PACKAGES)]
    return [content for folder in folders for content in building.contents(folder)]


def present(client: DockerClient, reference: str) -> bool:
    """Whether the engine has an image of this name. Raises RuntimeFailed."""
    try:
        client.images.get(reference)
    except ImageNotFound:
        return False
    except (DockerException, requests.RequestException) as error:
        raise RuntimeFailed("runtime_lost", f"the engine did not say whether it has {reference}: {error}") from error
    return True


def _remove_old(client: DockerClient, kernel_type: str) -> None:
    """Removes what earlier builds left, so that disks do not fill: old tags, and the stages of builds."""
    wanted = [_references(each) for each in FAMILIES]
    current = {tag for references in wanted for tag in (references.base, references.environment)}
    old = [tag for name in (BASE, ENVIRONMENT) for image in client.images.list(name=name) for tag in image.tags]
    doomed = [image.reference for image in list_images(client, [kernel_type]) if not image.expected][KEPT - 1 :]
    doomed += [tag for tag in old if tag not in current]
    for tag in doomed:
        try:
            client.images.remove(tag)
        except APIError:
            continue  # the engine keeps what a container uses: a later build tries again
    client.images.prune(filters={"dangling": True, "label": "cellyard.image"})


def main() -> int:
    """Builds what is missing, prints the names. `--install-tools` installs what that needs, `--python V` adds one."""
    started = time.monotonic()
    words = sys.argv[1:]
    wanted = [word for at, word in enumerate(words) if at and words[at - 1] == "--python"]

    def report(line: str) -> None:
        print(f"image  {time.monotonic() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        with closing(connect()) as client:
            for kernel_type in dict.fromkeys((*KERNEL_TYPES, *map(family, wanted))):
                install_tools = "--install-tools" in words
                print(build(report, client=client, install_tools=install_tools, kernel_type=kernel_type))
    except RuntimeFailed as failure:
        print(f"image: {failure}", file=sys.stderr)
        return 1
    return 0
