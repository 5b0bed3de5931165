"""What the engine is and has, and from that whether a sandbox could be started: a look, a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.errors import ImageNotFound

from cellyard_controller.runtimes import Readiness, Template


@dataclass(frozen=True, slots=True)
class Survey:
    """The engine as it answered, and one image there."""

    version: str
    api_version: str
    cgroup_version: str
    oci_runtimes: Mapping[str, str]
    """What the engine calls each, and the command that it is."""
    oci_default: str
    security: tuple[str, ...]
    """What the engine confines with: "seccomp", "apparmor", "userns", ..."""
    image: str
    image_id: str
    """Empty where the image is missing."""
    kernel: str = ""
    """The release of the kernel below the engine."""

    @property
    def private_cgroups(self) -> bool:
        """Whether containers can have a cgroup namespace of their own."""
        return self.cgroup_version == "2"


def look(client: APIClient, image: str) -> Survey:
    """Asks the engine. Blocks; raises docker's errors."""
    version, info = client.version(), client.info()
    try:
        image_id = client.inspect_image(image)["Id"]  # type: ignore[no-untyped-call]
    except ImageNotFound:
        image_id = ""
    options = [option.split(",")[0].removeprefix("name=") for option in info.get("SecurityOptions") or ()]
    return Survey(
        version=version["Version"],
        api_version=version["ApiVersion"],
        cgroup_version=info.get("CgroupVersion", "1"),
        oci_runtimes={name: _command(each) for name, each in sorted((info.get("Runtimes") or {}).items())},
        oci_default=info.get("DefaultRuntime", ""),
        security=tuple(sorted(options)),
        image=image,
        image_id=image_id,
        kernel=info.get("KernelVersion", ""),
    )


def _command(runtime: dict[str, Any]) -> str:
    return " ".join([runtime.get("path") or "", *(runtime.get("runtimeArgs") or ())])


def readiness(survey: Survey, template: Template) -> Readiness:
    """Whether a sandbox of this template could be started on that engine."""
    details = {
        "engine": survey.version,
        "api": survey.api_version,
        "cgroup": survey.cgroup_version,
        "security": ", ".join(survey.security),
        "image": survey.image,
        "image_id": survey.image_id,
        "kernel": survey.kernel,
        "oci_runtime": oci_runtime(survey, template),
    }
    reason = _obstacle(survey, template)
    return Readiness(ready=not reason, reason=reason, details=details)


def oci_runtime(survey: Survey, template: Template) -> str:
    """Which OCI runtime a sandbox gets, with the command that it is."""
    name = template.oci_runtime or survey.oci_default
    return f"{name} ({survey.oci_runtimes.get(name, '')})"


def _obstacle(survey: Survey, template: Template) -> str:
    if template.oci_runtime and template.oci_runtime not in survey.oci_runtimes:
        return (
            f"the engine has no OCI runtime {template.oci_runtime} for the template {template.name}: install "
            f"it and add it to the engine's configuration; it has {', '.join(survey.oci_runtimes)}"
        )
    if "seccomp" not in survey.security:
        return "the engine has no seccomp, so it cannot keep sandboxes from system calls: use a kernel that has it"
    if not survey.image_id:
        return image_missing(survey.image, template)
    return ""


def image_missing(image: str, template: Template) -> str:
    """That an image is not there, with the remedy."""
    if template.image:
        return f"the engine has no image {image} for the template {template.name}: build or load it there"
    return f"the engine has no image {image}: run `cellyard images build`"
