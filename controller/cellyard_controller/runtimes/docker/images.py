"""The images that sandboxes start from, named by their content, built on the engine where they are missing.

Three layers, each a tag of its own: a base (bases.py), an environment (images/python: interpreter, packages;
images/deno: Deno) and on top the agent (images/agent). So a changed agent costs a second, not a new environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from docker import DockerClient
from docker.errors import APIError, DockerException, ImageNotFound

from cellyard_controller.runtimes import RuntimeFailed
from cellyard_controller.runtimes.docker import bases, wheels
from cellyard_controller.runtimes.docker.engine import engine_address, unreachable

BASE = "cellyard-base"
ENVIRONMENT = "cellyard-environment"
PYTHON = "cellyard-python"
DENO = "cellyard-deno"
KERNEL_TYPES = ("python", "deno")
"""The kernels that there are images for."""
KEPT = 5
"""So many images of ours stay, the newest: going back to the last change needs no build."""
_STEP_TIMEOUT = 900
_AGENT_PACKAGES = ("cellyard_proto", "cellyard_sandbox")

Report = Callable[[str], None]


class ImageBuildFailed(RuntimeFailed):
    """An image could not be built. The message says why and what to do about it."""

    def __init__(self, message: str) -> None:
        super().__init__("image_missing", message)


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """One image of ours on the engine."""

    reference: str
    size_bytes: int
    created: str
    """As the engine says it: RFC 3339, UTC."""
    expected: bool
    """Whether this release starts its sandboxes from it."""


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


def connect(timeout: int = _STEP_TIMEOUT) -> DockerClient:
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


def build(report: Report, *, client: DockerClient, install_tools: bool = False, kernel_type: str = "python") -> str:
    """Builds what is missing of the default template's image for such kernels and returns its reference.

    `report` is told of each step that takes longer. `install_tools` lets apt install mmdebstrap, as root.
    Raises RuntimeFailed.
    """
    references = _references(kernel_type)
    if _present(client, references.image):
        return references.image
    with _building_alone(report):
        if _present(client, references.image):
            return references.image
        try:
            _build_missing(references, client, report, kernel_type, install_tools=install_tools)
            if _references(kernel_type) != references:
                # Its name would promise what it does not hold.
                client.images.remove(references.image)
                raise ImageBuildFailed("sources of the image were changed while it was built: build it again")
            client.images.get(references.image).tag(_repository(kernel_type), "latest")
            _remove_old(client, kernel_type)
        except (DockerException, requests.RequestException) as error:
            raise ImageBuildFailed(f"the engine failed while building images: {error}. Try again") from error
    return references.image


def list_images(client: DockerClient, kernel_types: Sequence[str] = KERNEL_TYPES) -> list[BuiltImage]:
    """Our sandbox images on the engine, newest first. Raises RuntimeFailed."""
    images: list[BuiltImage] = []
    for kernel_type in kernel_types:
        expected, repository = expected_image(kernel_type), _repository(kernel_type)
        try:
            found = client.images.list(name=repository)
        except (DockerException, requests.RequestException) as error:
            raise RuntimeFailed("runtime_lost", f"the engine did not list its images: {error}") from error
        images += [
            BuiltImage(tag, image.attrs["Size"], image.attrs["Created"], expected=tag == expected)
            for image in found
            for tag in image.tags
            if tag.startswith(f"{repository}:") and not tag.endswith(":latest")
        ]
    return sorted(images, key=lambda image: image.created, reverse=True)


def _repository(kernel_type: str) -> str:
    return {"python": PYTHON, "deno": DENO}[kernel_type]


def _build_missing(
    references: _References, client: DockerClient, report: Report, kernel_type: str, *, install_tools: bool
) -> None:
    folder = images_folder()
    if not _present(client, references.environment):
        if not _present(client, references.base):
            with _timed(report, "base"):
                bases.make(references.base, client, report, install_tools=install_tools)
        with _timed(report, "packages"):
            locks = [folder / "python" / "pip.lock", folder / kernel_type / "requirements.lock"]
            found = wheels.fetch(locks, client.version()["Arch"], report, family=kernel_type)
        with _timed(report, "environment"):
            report("installing the packages and compiling their bytecode (about half a minute)")
            parts = [(folder / kernel_type, ""), (found, "wheels")]
            _build_image(client, references.environment, parts, {"BASE": references.base})
    with _timed(report, "agent"):
        report("adding the kernel agent")
        parts = [(folder / "agent", "")]
        parts += [(package_folder(name), f"cellyard/{name}") for name in _AGENT_PACKAGES]
        _build_image(client, references.image, parts, {"ENVIRONMENT": references.environment})


def _build_image(
    client: DockerClient, reference: str, parts: list[tuple[Path, str]], arguments: dict[str, str]
) -> None:
    """Builds from a context of (folder, its name there), without network."""
    last_words: list[str] = []
    with tempfile.TemporaryFile() as context:
        with tarfile.open(fileobj=context, mode="w") as tar:
            for folder, name in parts:
                add_to_context(tar, folder, name)
        context.seek(0)
        answer = client.api.build(
            fileobj=context,
            custom_context=True,
            tag=reference,
            buildargs=arguments,
            network_mode="none",
            labels={"cellyard.image": reference},
            rm=True,
            forcerm=True,
            decode=True,
            timeout=_STEP_TIMEOUT,
            use_config_proxy=False,
        )
        for message in answer:
            last_words = [*last_words[-20:], message.get("stream", "").strip()]
            if "error" in message:
                said = " | ".join(word for word in last_words if word)[-600:]
                raise ImageBuildFailed(f"building {reference} failed: {message['error'].strip()}. It said: {said}")


def add_to_context(tar: tarfile.TarFile, folder: Path, name: str) -> None:
    """Adds what of a folder goes into an image, as `name` ("" for the top)."""
    for file in _files(folder):
        tar.add(file, Path(name) / file.relative_to(folder), filter=_anonymous)


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
    folder = images_folder()
    base = _name(BASE, bases.RECIPE.encode())
    installer = () if kernel_type == "python" else (folder.joinpath("python", "pip.lock").read_bytes(),)
    environment = _name(ENVIRONMENT, base.encode(), *_contents(folder / kernel_type), *installer)
    agent = [content for name in _AGENT_PACKAGES for content in _contents(package_folder(name))]
    image = _name(_repository(kernel_type), environment.encode(), *_contents(folder / "agent"), *agent)
    return _References(base, environment, image)


def _name(repository: str, *parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return f"{repository}:{whole.hexdigest()[:12]}"


def _contents(folder: Path) -> Iterator[bytes]:
    for file in _files(folder):
        yield str(file.relative_to(folder)).encode()
        yield file.read_bytes()


def _files(folder: Path) -> list[Path]:
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


def _present(client: DockerClient, reference: str) -> bool:
    try:
        client.images.get(reference)
    except ImageNotFound:
        return False
    except (DockerException, requests.RequestException) as error:
        raise RuntimeFailed("runtime_lost", f"the engine did not say whether it has {reference}: {error}") from error
    return True


def _remove_old(client: DockerClient, kernel_type: str) -> None:
    """Removes what earlier builds left, so that disks do not fill: old tags, and the stages of builds."""
    wanted = [_references(each) for each in KERNEL_TYPES]
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


@contextmanager
def _building_alone(report: Report) -> Iterator[None]:
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
def _timed(report: Report, what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    taken = time.monotonic() - started
    if taken >= 1.0:
        report(f"{what}: done in {taken:.0f} s")


def main() -> int:
    """Builds what is missing, prints the names. `--install-tools` installs what that needs."""
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"image  {time.monotonic() - started:6.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        with closing(connect()) as client:
            for kernel_type in KERNEL_TYPES:
                install_tools = "--install-tools" in sys.argv[1:]
                print(build(report, client=client, install_tools=install_tools, kernel_type=kernel_type))
    except RuntimeFailed as failure:
        print(f"image: {failure}", file=sys.stderr)
        return 1
    return 0
