"""From arguments to the protocol's messages, checked. Proto types begin here.

What can be told without the controller is told here, as InvalidRequest; the controller checks the rest (known
kernel types, lengths of ids, ...), so that every client gets the same answer.
"""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from cellyard.errors import InvalidRequest
from cellyard_proto.flows import split_path
from cellyard_proto.v1 import executions_pb2, kernels_pb2, manner_pb2, tenants_pb2

CELL_TYPES = ("code", "markdown", "raw")
_LAST = 2**62  # an index past every end
_VERSION = re.compile(r"\d{1,2}\.\d{1,3}")

Message = TypeVar("Message")


def request_id() -> str:
    """A fresh id, by which the controller knows a repeated call."""
    return uuid.uuid4().hex


def cell_id() -> str:
    """A fresh cell id. Made here, so that a repeated call adds no second cell."""
    return f"cell-{uuid.uuid4()}"


def build(message: Callable[..., Message], /, **fields: Any) -> Message:
    """A message; what cannot stand in it (wrong types, lone surrogates) is InvalidRequest."""
    try:
        return message(**fields)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"cannot be sent: {error}") from None


def text(name: str, value: object) -> str:
    """A str, as Unicode can carry it."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{name} has a lone surrogate at position {error.start}: no Unicode text") from None
    return value


def sendable(text: str) -> str:
    """Text as Unicode can carry it, with question marks for what it cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def json_text(name: str, value: object) -> str:
    """A JSON object as text."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a mapping, not {type(value).__name__}")
    try:
        return json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name} is no JSON: {error}") from None


def named(name: str, value: object) -> str:
    """A str that is not empty."""
    if not text(name, value):
        raise InvalidRequest(f"{name} is empty")
    return str(value)


def seconds(name: str, value: object) -> float | None:
    """A time above zero; None and infinity mean no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value <= 0:
        raise InvalidRequest(f"{name} must be a number of seconds above zero, not {value!r}")
    return None if math.isinf(value) else float(value)


def duration(name: str, value: object) -> float:
    """A finite time above zero; None is 0, by which the protocol means the controller's default."""
    limit = seconds(name, value)
    if limit is None and value is not None:
        raise InvalidRequest(f"{name} must be a finite number of seconds")
    return limit or 0.0


def index(value: object, name: str = "index") -> int | None:
    """A position from 0; None, and what is past the end, appends."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name} must be an int, not {type(value).__name__}")
    if value < 0:
        raise InvalidRequest(f"{name} must not be negative, it is {value}")
    return min(value, _LAST)


def count(name: str, value: object) -> int:
    """A number of things, from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRequest(f"{name} must be an int above zero, not {value!r}")
    return min(value, 2**31 - 1)


def one_of(name: str, value: object, choices: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidRequest(f"unsupported {name} {value!r}: one of {', '.join(choices)}")
    return value


def settings(
    *,
    runtime: object,
    template: object,
    python_version: object,
    network: object,
    require: object,
    env: object,
    files: object,
    start_timeout: object,
    idle_timeout: object,
    ttl: object,
) -> kernels_pb2.KernelSettings:
    """A session's settings for a kernel that it starts, without kernel type and environment."""
    return build(
        kernels_pb2.KernelSettings,
        runtime="" if runtime is None else named("runtime", runtime),
        template=_template(template, python_version),
        network="" if network is None else named("network", network),
        require=words("require", require),
        env={text("env", key): text(f"env[{key!r}]", value) for key, value in _mapping("env", env).items()},
        files=[
            kernels_pb2.InlineFile(name=named("files", name), content=_content(name, content))
            for name, content in _mapping("files", files).items()
        ],
        start_timeout_s=duration("start_timeout", start_timeout),
        idle_timeout_s=duration("idle_timeout", idle_timeout),
        ttl_s=duration("ttl", ttl),
    )


def _template(template: object, python_version: object) -> str:
    """A template's name; with a Python behind it that is not to be left to the template."""
    name = "" if template is None else named("template", template)
    if python_version is None:
        return name
    version = named("python_version", python_version)
    if not _VERSION.fullmatch(version):
        raise InvalidRequest(f"python_version is like '3.11', not {version[:40]!r}")
    if "@" in name:
        raise InvalidRequest(
            f"the template {name[:200]!r} says a Python already: leave python_version or what follows @"
        )
    return f"{name or 'default'}@{version}"


def path(value: object, name: str = "path") -> str:
    """A path in the home of a sandbox: relative, and it never climbs. Empty for the home itself."""
    given = text(name, value)
    try:
        return "/".join(split_path(given))
    except ValueError as bad:
        raise InvalidRequest(f"{name} {given[:200]!r}: {bad}", details={"path": given[:200]}) from None


def argv(value: object) -> list[str]:
    """A program and its arguments; a string would be one for a shell, and there is none."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise InvalidRequest("a command is a list: the program, then its arguments")
    return [named("the program", word) if not at else text(f"argv[{at}]", word) for at, word in enumerate(value)]


def labels(value: object, *, values: bool = True) -> dict[str, str]:
    """Labels of a notebook; where `values` need not be there, None stands for any."""
    return {
        named("labels", key): "" if each is None and not values else text(f"labels[{key!r}]", each)
        for key, each in _mapping("labels", value).items()
    }


def quotas(value: object) -> dict[str, str]:
    """Quotas as the controller reads them; it knows the keys."""
    return {
        named("quotas", key): "unlimited" if each is None else str(each)
        for key, each in _mapping("quotas", value).items()
    }


def grant(name: object, scope: object, expires_in: object, certificate: object) -> tenants_pb2.TokenGrant:
    """What a new token is to allow."""
    span = None if expires_in is None else duration("expires_in", expires_in)
    return build(
        tenants_pb2.TokenGrant,
        name=text("name", name),
        scope=named("scope", scope),
        expires_in_s=span,
        certificate="" if certificate is None else named("certificate", certificate),
    )


def kernel_choice(kernel_type: object, env_source: object, notebook_path: object) -> tuple[str, str]:
    """What `start_kernel` was asked for."""
    if notebook_path is not None and not isinstance(notebook_path, str | os.PathLike):
        raise InvalidRequest(f"notebook_path must be a path, not {type(notebook_path).__name__}")
    return named("kernel_type", kernel_type), named("env_source", env_source)


def new_cell(source: object) -> executions_pb2.NewCell:
    """A cell that is created and run in one call, at the end of the notebook."""
    return build(executions_pb2.NewCell, cell_id=cell_id(), source=text("source", source))


def manner(silent: object, store_history: object, user_expressions: object, payload: object) -> manner_pb2.Manner:
    """How a source is to be run, where that is not as usual."""
    asked = build(
        manner_pb2.Manner,
        silent=bool(silent),
        user_expressions={
            text("user_expressions", name): text(f"user_expressions[{name!r}]", expression)
            for name, expression in _mapping("user_expressions", user_expressions).items()
        },
        payload=bool(payload),
    )
    if not store_history:
        asked.store_history = False
    return asked


def words(name: str, value: object) -> list[str]:
    """A few names, in order and each once."""
    if isinstance(value, str) or not isinstance(value, Collection):
        raise InvalidRequest(f"{name} must be a collection of names, not {type(value).__name__}")
    return sorted({named(name, word) for word in value})


def _mapping(name: str, value: object) -> Mapping[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{name} must be a mapping, not {type(value).__name__}")
    return value


def _content(name: object, value: object) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidRequest(f"files[{name!r}] must be bytes, not {type(value).__name__}")
    return bytes(value)
