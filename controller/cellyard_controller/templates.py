"""Templates by the names that clients give: NAME, or NAME@VERSION for the same template with another Python. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cellyard_controller.errors import EnvironmentFailed, InvalidRequest
from cellyard_controller.runtimes import PYTHONS, USUAL_PYTHON, Template

if TYPE_CHECKING:
    from cellyard_controller.config import TemplateConfig

_VERSION = re.compile(r"\d{1,2}\.\d{1,3}")


def split(name: str) -> tuple[str, str]:
    """The operator's name for it, and the Python that is asked for; "" for the template's own."""
    base, _, python = (name or "default").partition("@")
    return base, python


def find(templates: Mapping[str, TemplateConfig], name: str) -> Template | None:
    """The template as runtimes take it; None where the operator defines none by this name.

    Where its images are the operator's, the template's own one may have the Python that is asked for: only a look at
    it can tell. Raises InvalidRequest for a version that is none, EnvironmentFailed for one that it cannot have.
    """
    base, python = split(name)
    config = templates.get(base)
    if config is None:
        return None
    if "@" in name and not _VERSION.fullmatch(python):
        raise InvalidRequest(f"a Python version is like 3.11, not {python[:40]!r}")
    image = config.python.get(python, config.image)
    if not image and python not in ("", *PYTHONS):
        raise not_there(base, python, pythons(config))
    return config.template(name or "default", image, "" if image else python)


def offered(templates: Mapping[str, TemplateConfig], tenant: str, *, operator: bool) -> list[str]:
    """The templates that somebody may name."""
    return sorted(
        name for name, each in templates.items() if operator or each.tenants is None or tenant in each.tenants
    )


def not_there(template: str, python: str, versions: Iterable[str], why: str = "") -> EnvironmentFailed:
    """That a template cannot have this Python, and which it can."""
    has = ", ".join(versions) or "that of its image alone"
    because = f" ({why})" if why else ""
    return EnvironmentFailed(
        f"Python {python} cannot be had{because}: the template {template!r} has {has}", requirement="python"
    )


def unknown(name: str, known: Iterable[str]) -> InvalidRequest:
    """That there is no such template among those that may be named."""
    return InvalidRequest(f"unknown template {name[:200]!r}: {', '.join(sorted(known))}", template=name[:200])


def own_python(config: TemplateConfig) -> str:
    """The Python of a template without further choice, as far as the configuration tells: "" for an image's own."""
    return "" if config.image else USUAL_PYTHON


def pythons(config: TemplateConfig) -> list[str]:
    """The versions that it may have, as far as the configuration tells, its own first where that is known."""
    release = [] if config.image else list(PYTHONS)
    return list(dict.fromkeys([*release, *config.python]))
