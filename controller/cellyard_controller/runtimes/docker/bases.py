"""The file systems that images start from: a registry's Python image, or a Debian made on the spot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import requests
from docker import DockerClient

from cellyard_controller.runtimes import PYTHONS, USUAL_PYTHON, RuntimeFailed

PACKAGES = ("ca-certificates", "libstdc++6", "netbase", "python3", "tzdata", "usr-is-merged")
OPTIONS = (
    "--variant=essential",
    # Else the package that merges /usr comes in, and all of Perl with it: 50 MiB.
    "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
    "--dpkgopt=force-unsafe-io",
    "--aptopt=APT::Install-Recommends false",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--customize-hook=find "$1" -xdev -type f -perm /6000 -exec chmod a-s {} +',
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian, taken for the Python that it brings."""

    suite: str
    registry_image: str
    glibc: int
    """The minor version: 36 is glibc 2.36."""

    @property
    def recipe(self) -> str:
        """Everything that decides what a base of this release holds, to be part of its name."""
        return repr((self.suite, self.registry_image, PACKAGES, OPTIONS))


RELEASES = {
    USUAL_PYTHON: Release("bookworm", "python:3.11-slim-bookworm", 36),
    "3.13": Release("trixie", "python:3.13-slim-trixie", 41),
}
"""By the Python that they bring."""
assert tuple(RELEASES) == PYTHONS

_QUICK = 10.0
"""A registry that is silent for this many seconds is none."""
_SLOW = 900.0


def make(
    reference: str,
    client: DockerClient,
    report: Callable[[str], None],
    *,
    install_tools: bool,
    release: Release = RELEASES[USUAL_PYTHON],
) -> None:
    """Makes the base and tags it. With `install_tools`, and as root, installs mmdebstrap where it is missing.

    Raises RuntimeFailed.
    """
    report("looking for a base image in the registry")
    if _pulled(reference, client, release):
        return
    report("no registry answers; making a Debian root filesystem instead (about half a minute)")
    tool = _mmdebstrap(report, release, install=install_tools)
    repository, tag = reference.split(":")
    with tempfile.TemporaryFile() as tar:
        _debian(tool, tar, release)
        tar.seek(0)
        params = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": "LABEL cellyard.base=debian"}
        for _ in _create_image(client, params, silence=300.0, body=tar):
            pass


def _pulled(reference: str, client: DockerClient, release: Release) -> bool:
    """Whether a registry answered quickly; then the base is there."""
    name, tag = release.registry_image.split(":")
    try:
        for _ in _create_image(client, {"fromImage": name, "tag": tag}, silence=_QUICK):
            pass
        client.images.get(release.registry_image).tag(*reference.split(":"))
    except (RuntimeFailed, requests.RequestException):
        return False
    return True


def _create_image(
    client: DockerClient, params: dict[str, str], *, silence: float, body: IO[bytes] | None = None
) -> Iterator[dict[str, Any]]:
    """Pulls or imports, message by message. docker-py's own calls wait forever; this `silence` seconds."""
    api = client.api
    url = f"{api.base_url}/v{api.api_version}/images/create"
    headers = {"Content-Type": "application/x-tar"} if body else {}
    answer = api.post(url, params=params, data=body, headers=headers, stream=True, timeout=(10.0, silence))
    with answer:
        if answer.status_code != 200:
            raise RuntimeFailed("image_missing", f"the engine refused to make a base: {answer.text.strip()}")
        for line in answer.iter_lines():
            message = json.loads(line)
            if "error" in message:
                raise RuntimeFailed("image_missing", f"the engine could not make a base: {message['error']}")
            yield message


def _mmdebstrap(report: Callable[[str], None], release: Release, *, install: bool) -> str:
    found = shutil.which("mmdebstrap")
    if found:
        return found
    if install and os.geteuid() == 0 and shutil.which("apt-get"):
        report("installing mmdebstrap")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "mmdebstrap"]):
            # What failed is told by the tool's absence below.
            subprocess.run(
                ["apt-get", "-qq", *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=300,
                check=False,
            )
        found = shutil.which("mmdebstrap")
    if not found:
        raise RuntimeFailed(
            "image_missing",
            f"no registry offers {release.registry_image} here, and mmdebstrap, which would make a base instead, "
            "is missing: `apt-get install mmdebstrap` as root, then `cellyard images build`",
        )
    return found


def _debian(tool: str, tar: IO[bytes], release: Release) -> None:
    """Writes a Debian root filesystem as tar, from the package sources that this host itself uses."""
    sources = _sources(release.suite)
    command = [tool, "--quiet", *OPTIONS, f"--include={','.join(PACKAGES)}", release.suite, "-"]
    if sources:
        command.append("-")  # from stdin; else mmdebstrap knows Debian's own
    try:
        done = subprocess.run(
            command, input=sources.encode(), stdout=tar, stderr=subprocess.PIPE, timeout=_SLOW, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFailed(
            "image_missing", f"mmdebstrap was not done after {_SLOW:.0f} s: is the package mirror slow?"
        ) from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("E:")]
        why = lines[0] if lines else f"mmdebstrap ended with {done.returncode}"
        raise RuntimeFailed(
            "image_missing",
            f"no Debian root filesystem could be made: {why}. Check that `apt-get update` works here",
        )


def _sources(suite: str) -> str:
    """The host's own package sources, for the base's release; "" where it is no Debian or knows none."""
    host = _os_release()
    if host.get("ID") != "debian" or not shutil.which("apt-get"):
        return ""
    form = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return sources_for(listing.stdout, host.get("VERSION_CODENAME", suite), suite)


def sources_for(targets: str, host: str, wanted: str) -> str:
    """Package sources of the base's release, from apt's `origin uri suite component` on a host's release."""
    suites = {f"{host}{part}": f"{wanted}{part}" for part in ("", "-updates", "-security")}
    sources: dict[str, None] = {}
    for target in targets.splitlines():
        match target.split():
            case ["Debian", uri, suite, "main"] if suite in suites:
                sources[f"deb {uri} {suites[suite]} main\n"] = None
    return "".join(sources)


def _os_release() -> dict[str, str]:
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name: value.strip('"') for name, _, value in pairs}
