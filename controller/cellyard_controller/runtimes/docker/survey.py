"""What the engine is and has, and from that whether a sandbox could be started: a look, a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from docker import APIClient
from docker.errors import ImageNotFound

from cellyard_controller.runtimes import Readiness, Template

AGENT_LABEL = "cellyard.agent"
"""The label by which an image tells which agent is in it; what is built on it inherits that."""
_REMEDY = "build it with `cellyard images build NAME --file Dockerfile`"


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
    agent: str = ""
    """Which agent the image says it has."""
    never: tuple[str, ...] = ()
    """What the image has that no sandbox may have: an entry point, volumes."""
    kernel: str = ""
    """The release of the kernel below the engine."""

    @property
    def private_cgroups(self) -> bool:
        """Whether containers can have a cgroup namespace of their own."""
        return self.cgroup_version == "2"


def look(client: APIClient, image: str) -> Survey:
    """Asks the engine. Blocks; raises docker's errors."""
    version, info = client.version(), client.info()
    image_id, about = "", dict[str, Any]()
    try:
        found = client.inspect_image(image)  # type: ignore[no-untyped-call]
        image_id, about = found["Id"], found.get("Config") or {}
    except ImageNotFound:
        pass  # which is told by its empty id
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
        agent=(about.get("Labels") or {}).get(AGENT_LABEL, ""),
        never=tuple(name for name in ("Entrypoint", "Volumes") if about.get(name)),
        kernel=info.get("KernelVersion", ""),
    )


def _command(runtime: dict[str, Any]) -> str:
    return " ".join([runtime.get("path") or "", *(runtime.get("runtimeArgs") or ())])


def readiness(survey: Survey, template: Template, agent: str) -> Readiness:
    """Whether a sandbox of this template could be started on that engine. `agent`: this release's, see AGENT_LABEL."""
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
    reason = _obstacle(survey, template, agent)
    return Readiness(ready=not reason, reason=reason, details=details)


def oci_runtime(survey: Survey, template: Template) -> str:
    """Which OCI runtime a sandbox gets, with the command that it is."""
    name = template.oci_runtime or survey.oci_default
    return f"{name} ({survey.oci_runtimes.get(name, '')})"


def _obstacle(survey: Survey, template: Template, agent: str) -> str:
    if template.oci_runtime and template.oci_runtime not in survey.oci_runtimes:
        return (
            f"the engine has no OCI runtime {template.oci_runtime} for the template {template.name}: install "
            f"it and add it to the engine's configuration; it has {', '.join(survey.oci_runtimes)}"
        )
    if "seccomp" not in survey.security:
        return "the engine has no seccomp, so it cannot keep sandboxes from system calls: use a kernel that has it"
    if not survey.image_id:
        return image_missing(survey.image, template)
    return unfit(survey, template, agent) if template.image else ""


def unfit(survey: Survey, template: Template, agent: str) -> str:
    """Why no sandbox can be made from an operator's image; "" where one can, or where none is there."""
    which = f"the image {survey.image} of the template {template.name}"
    if not survey.image_id:
        return ""
    if survey.never:
        return f"{which} has {' and '.join(survey.never)}, which no sandbox can have: {_REMEDY}"
    if survey.agent != agent:
        what = "has the kernel agent of another release" if survey.agent else "has no kernel agent"
        return f"{which} {what}: {_REMEDY}"
    return ""


def image_missing(image: str, template: Template) -> str:
    """That an image is not there, with the remedy."""
    if template.image:
        return f"the engine has no image {image} for the template {template.name}: load it there, or {_REMEDY}"
    return f"the engine has no image {image}: run `cellyard images build`"
