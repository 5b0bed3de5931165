"""Templates by the names that clients give."""

from __future__ import annotations

import pytest

from cellyard_controller import templates
from cellyard_controller.config import Config, TemplateConfig
from cellyard_controller.errors import EnvironmentFailed, InvalidRequest
from cellyard_controller.runtimes import PYTHONS
from cellyard_controller.runtimes.docker import bases

KNOWN = {
    "default": TemplateConfig(),
    "science": TemplateConfig(image="science:1", python={"3.12": "science-312:1", "3.13": ""}, pids=64),
    "ours": TemplateConfig(tenants=("acme",)),
}


@pytest.mark.parametrize(
    ("name", "image", "python"),
    [
        ("", "", ""),
        ("default", "", ""),
        ("default@3.11", "", "3.11"),
        ("default@3.13", "", "3.13"),
        ("science", "science:1", ""),
        ("science@3.12", "science-312:1", ""),
        ("science@3.13", "", "3.13"),
        ("science@3.9", "science:1", ""),  # its image may have that: it is asked
    ],
)
def test_a_python_behind_the_name_chooses_the_image(name: str, image: str, python: str) -> None:
    found = templates.find(KNOWN, name)
    assert found is not None
    assert (found.name, found.image, found.python) == (name or "default", image, python)
    assert found.pids == (64 if name.startswith("science") else 256)


def test_a_python_that_this_release_has_no_image_with_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(EnvironmentFailed, match=r"Python 3\.9 cannot be had: the template 'default' has 3\.11, 3\.13"):
        templates.find(KNOWN, "default@3.9")


@pytest.mark.parametrize("name", ["default@", "default@3", "default@3.11.2", "default@latest", "default@3.11@3.13"])
def test_what_is_no_version_is_no_request(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"a Python version is like 3\.11"):
        templates.find(KNOWN, name)


def test_nobody_hears_of_templates_that_they_may_not_name() -> None:
    assert templates.offered(KNOWN, "acme", operator=False) == ["default", "ours", "science"]
    assert templates.offered(KNOWN, "other", operator=False) == ["default", "science"]
    assert templates.offered(KNOWN, "local", operator=True) == ["default", "ours", "science"]


def test_a_template_that_is_not_there_is_none() -> None:
    assert templates.find(KNOWN, "no-such") is None
    assert templates.find(KNOWN, "no-such@3.11") is None


@pytest.mark.parametrize("name", ["", "a@3.11", "@"])
def test_a_name_that_would_be_read_as_another_cannot_be_configured(name: str) -> None:
    with pytest.raises(ValueError, match="a template cannot be called"):
        Config(templates={name: TemplateConfig()})


def test_every_python_has_a_release_of_debian() -> None:
    assert tuple(bases.RELEASES) == PYTHONS
