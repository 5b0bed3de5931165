"""When a sandbox can be started, and what to do where not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cellyard_controller.runtimes import Readiness, Template
from cellyard_controller.runtimes.docker import survey
from cellyard_controller.runtimes.docker.survey import Survey

TEMPLATE = Template("default", "")
SURVEY = Survey(
    version="20.10.24",
    api_version="1.41",
    cgroup_version="1",
    oci_runtimes={"runc": "runc"},
    oci_default="runc",
    security=("seccomp",),
    image="cellyard-python:1",
    image_id="sha256:1",
)


def readiness(found: Survey, template: Template) -> Readiness:
    return survey.readiness(found, template, "this one")


def test_an_engine_with_the_image_is_ready() -> None:
    ready = readiness(SURVEY, TEMPLATE)
    assert (ready.ready, ready.reason) == (True, "")
    assert ready.details["engine"] == "20.10.24"


def test_a_missing_default_image_is_built() -> None:
    ready = readiness(replace(SURVEY, image_id=""), TEMPLATE)
    assert not ready.ready
    assert "run `cellyard images build`" in ready.reason


def test_a_missing_image_of_a_template_is_the_operators() -> None:
    ready = readiness(replace(SURVEY, image="mine:1", image_id=""), Template("own", "mine:1"))
    assert "no image mine:1 for the template own" in ready.reason


OWN = replace(SURVEY, image="mine:1", image_id="sha256:2")


def test_an_image_of_the_operators_with_this_releases_agent_is_ready() -> None:
    assert readiness(replace(OWN, agent="this one"), Template("own", "mine:1")).ready


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (OWN, "has no kernel agent"),
        (replace(OWN, agent="an older one"), "has the kernel agent of another release"),
        (replace(OWN, agent="this one", never=("Entrypoint",)), "has Entrypoint, which no sandbox can have"),
        (replace(OWN, agent="this one", never=("Volumes",)), "has Volumes"),
    ],
)
def test_an_image_of_the_operators_that_no_sandbox_can_be_made_from_is_refused_with_the_remedy(
    found: Survey, why: str
) -> None:
    ready = readiness(found, Template("own", "mine:1"))
    assert not ready.ready
    assert f"the image mine:1 of the template own {why}" in ready.reason
    assert "`cellyard images build NAME" in ready.reason


def test_an_oci_runtime_that_the_engine_lacks_is_named_with_those_it_has() -> None:
    ready = readiness(SURVEY, replace(TEMPLATE, oci_runtime="runsc"))
    assert not ready.ready
    assert "no OCI runtime runsc" in ready.reason
    assert "it has runc" in ready.reason


def test_an_engine_without_seccomp_starts_nothing() -> None:
    assert "no seccomp" in readiness(replace(SURVEY, security=("apparmor",)), TEMPLATE).reason


def test_what_an_oci_runtime_is_belongs_to_what_is_told() -> None:
    strong = replace(SURVEY, oci_runtimes={"runc": "runc", "runsc": "/usr/bin/runsc --network=none"})
    told = readiness(strong, replace(TEMPLATE, oci_runtime="runsc")).details
    assert told["oci_runtime"] == "runsc (/usr/bin/runsc --network=none)"
    assert readiness(strong, TEMPLATE).details["oci_runtime"] == "runc (runc)"


def test_cgroup_namespaces_are_private_where_there_are_any() -> None:
    assert not SURVEY.private_cgroups
    assert replace(SURVEY, cgroup_version="2").private_cgroups
