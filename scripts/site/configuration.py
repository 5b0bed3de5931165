"""The reference of the configuration: every field of the sections with its names, its default and its meaning."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cellyard_controller.config import Config, TemplateConfig
from cellyard_proto import amounts

BY_MACHINE = {
    "capacity.memory": "90 % of the machine's memory, 4 GiB at least",
    "data": "`$XDG_STATE_HOME/cellyard`, else `~/.local/state/cellyard`",
}
"""Defaults that another machine or user has otherwise."""


def fields(model: type[BaseModel] = Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    """Every setting by its dotted name, as in the TOML; a template's begin with `templates.NAME`."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, (*above, name))
        elif kind == dict[str, TemplateConfig]:
            yield from fields(TemplateConfig, (*above, name, "NAME"))
        else:
            yield ".".join((*above, name)), field


def shown(value: Any) -> str:
    """A setting's value as people read it."""
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Numbers of bytes are powers of two, or a few of them; numbers of things are not.
        return amounts.size(value).replace(".0 ", " ") if value and value % 65536 == 0 else f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{json.dumps(value if isinstance(value, str) else list(value))}`"


def defaults() -> dict[str, str]:
    """The default of every setting, as people read it."""
    found = {}
    for name, field in fields():
        value = field.get_default(call_default_factory=True)
        is_span = isinstance(value, float) and not name.endswith(("cpus", "cpu")) and value
        found[name] = BY_MACHINE.get(name) or (amounts.duration(value) if is_span else shown(value))
    return found


def page() -> str:
    """Markdown."""
    text = Path(__file__).with_name("configuration.md").read_text(encoding="utf-8")
    default = defaults()
    sections: dict[str, list[str]] = {}
    for name, field in fields():
        section, _, last = name.rpartition(".")
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        row = f"| `{last}` | `{environment(name)}` | {default[name]} | {_choices(field)}{meaning} |"
        sections.setdefault(section, []).append(row)
    lines = [text]
    for section, rows in sections.items():
        title = f"[{section}]" if section else "At the top"
        lines.append(f"## {title} {{ #{section.replace('.', '-').lower() or 'top'} }}\n")
        if about := _about(section):
            lines.append(about + "\n")
        lines += ["| name | environment | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def environment(name: str) -> str:
    """The environment variable of a setting."""
    return "CELLYARD_" + name.upper().replace(".", "__")


def _choices(field: FieldInfo) -> str:
    words = [arg for kind in _parts(field.annotation) for arg in typing.get_args(kind)]
    return ", ".join(f"`{word}`" for word in words) + ". " if words else ""


def _parts(kind: Any) -> Iterator[Any]:
    """The Literals in a type."""
    if typing.get_origin(kind) is typing.Literal:
        yield kind
    else:
        for each in typing.get_args(kind):
            yield from _parts(each)


def _about(section: str) -> str:
    model: Any = Config
    if not section:
        return ""
    for part in section.split("."):
        if part == "NAME":
            model = TemplateConfig
        elif part != "templates":
            model = model.model_fields[part].annotation
    return " ".join((model.__doc__ or "").split())
