"""What clients send, checked and in the controller's own terms. Everything here raises InvalidRequest."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

from google.protobuf.message import Message

from cellyard_controller import json_text, templates
from cellyard_controller.api.access import Caller
from cellyard_controller.api.environments import environment
from cellyard_controller.config import Config, LimitsConfig, TemplateConfig
from cellyard_controller.errors import InvalidRequest, PermissionDenied
from cellyard_controller.executions.calls import Answer, Offers
from cellyard_controller.executions.model import USUAL, Manner
from cellyard_controller.executions.reports import CommSaid
from cellyard_controller.ids import LABEL_NAME, CellId, NotebookId, NotebookRef, SessionId
from cellyard_controller.notebooks.document import CELL_TYPES
from cellyard_controller.sandboxes.catalogue import NETWORKS
from cellyard_controller.sandboxes.flows import RunCommand
from cellyard_controller.sandboxes.link_messages import Question
from cellyard_controller.sandboxes.sandbox import KernelSettings
from cellyard_controller.store.requests import Request
from cellyard_proto.flows import split_path
from cellyard_proto.v1 import executions_pb2, kernels_pb2, outputs_pb2, processes_pb2

KERNEL_TYPES = ("python", "deno")
CAPABILITIES = (
    "timeout",
    "process_isolation",
    "container_isolation",
    "network_isolation",
    "reset",
    "deps_install",
)
ENV_SOURCES = (
    "auto",
    "uv:prewarmed",
    "uv:inline",
    "uv:pyproject",
    "conda:prewarmed",
    "conda:inline",
    "conda:env_yml",
    "pixi:toml",
    "deno",
)
_MAX_FILE_NAME = 255
_LABEL = re.compile(LABEL_NAME)
_MAX_LABEL = 256
_MAX_FUNCTIONS = 1_000
_MAX_EXPRESSIONS = 100
_MAX_PATTERN = 10_000
_MAX_ARGUMENTS = 10_000
_MAX_ARGUMENT_BYTES = 1024 * 1024


def identifier(value: str, what: str, limits: LimitsConfig) -> str:
    """An id: 1 to 256 printable characters, otherwise opaque."""
    if not value:
        raise InvalidRequest(f"{what} is empty")
    if len(value) > limits.identifier:
        raise InvalidRequest(f"{what} has {len(value)} characters; at most {limits.identifier} are allowed")
    if not value.isprintable():
        raise InvalidRequest(f"{what} {value!r} has characters that cannot be printed")
    return value


def notebook(notebook_id: str, caller: Caller, config: Config) -> NotebookRef:
    """The notebook of this id in the caller's namespace."""
    return NotebookRef(caller.tenant, NotebookId(identifier(notebook_id, "the notebook id", config.limits)))


def cell(cell_id: str, config: Config) -> CellId:
    """A cell id."""
    return CellId(identifier(cell_id, "the cell id", config.limits))


def session(session_id: str, config: Config) -> SessionId:
    """A session id; empty for none."""
    return SessionId(identifier(session_id, "the session id", config.limits) if session_id else "")


def request(message: Message, request_id: str, config: Config) -> Request:
    """A mutating request with the digest of its content."""
    if request_id:
        identifier(request_id, "the request id", config.limits)
    content = f"{message.DESCRIPTOR.full_name}\0".encode() + message.SerializeToString(deterministic=True)
    return Request(request_id, hashlib.sha256(content).digest())


def source(text: str, limits: LimitsConfig) -> str:
    """A cell's source, within its limit."""
    size = len(text.encode())
    if size > limits.source:
        raise InvalidRequest(f"the source has {size} bytes; at most {limits.source} are allowed")
    return text


def metadata_text(text: str, limits: LimitsConfig) -> str:
    """One value of metadata, within its limit."""
    if len(text.encode()) > limits.metadata:
        raise InvalidRequest(f"the metadata is larger than {limits.metadata} bytes")
    return text


def metadata(text: str, limits: LimitsConfig) -> dict[str, Any]:
    """A JSON object."""
    metadata_text(text, limits)
    value = _object(text, "the metadata")
    for key in value:
        try:
            key.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"the metadata key {key[:40]!r} has half of a surrogate pair") from None
    return value


def labels(given: Any) -> dict[str, str]:
    """Labels of a notebook."""
    for key, value in given.items():
        if _LABEL.fullmatch(key) is None:
            raise InvalidRequest(f"{key[:80]!r} is no key of a label: 1 to 63 of letters, digits, '_', '-', '.', '/'")
        if len(value) > _MAX_LABEL or not value.isprintable():
            raise InvalidRequest(f"the label {key!r} has a value that is no {_MAX_LABEL} printable characters or fewer")
    return dict(given)


def cell_type(name: str) -> str:
    """One of nbformat's types of cells."""
    if name not in CELL_TYPES:
        raise InvalidRequest(f"unsupported cell type {name[:40]!r}: one of {', '.join(CELL_TYPES)}")
    return name


def index(value: int) -> int:
    """A position from 0."""
    if value < 0:
        raise InvalidRequest(f"an index is not negative: {value}")
    return value


def seconds(value: float, what: str) -> float:
    """A time span above zero."""
    if not math.isfinite(value) or value <= 0:
        raise InvalidRequest(f"{what} is a number of seconds above zero, not {value:g}")
    return value


def offers(message: executions_pb2.Start, limits: LimitsConfig) -> Offers:
    """What a client offers to the code that it starts."""
    if len(message.host_calls) > _MAX_FUNCTIONS:
        raise InvalidRequest(f"{len(message.host_calls)} host calls are offered; at most {_MAX_FUNCTIONS} are allowed")
    names = frozenset(identifier(name, "the name of a host call", limits) for name in message.host_calls)
    return Offers(names, message.answers_input)


def answer(message: executions_pb2.AnswerCall, limits: LimitsConfig) -> Answer:
    """A client's answer to a call of the code."""
    kind = message.WhichOneof("answer")
    if kind is None:
        raise InvalidRequest("neither a value, a text nor an error to answer with")
    error = message.error
    content = error.message if kind == "error" else getattr(message, kind)
    if len(content) > limits.answer:
        raise InvalidRequest(f"the answer has {len(content)} characters; at most {limits.answer} are allowed")
    if kind == "value_json":
        try:
            json_text.parse(content)
        except ValueError as bad:
            raise InvalidRequest(f"the answer is no JSON: {bad}") from None
        return Answer("value", content)
    return Answer(kind, content, error.name[:256] if kind == "error" else "")


def comm(message: outputs_pb2.Comm, limits: LimitsConfig) -> CommSaid:
    """A comm's message from a front end."""
    kind = message.WhichOneof("what")
    if kind is None:
        raise InvalidRequest("a comm's message says nothing")
    said = getattr(message, kind)
    size = len(said.data_json) + sum(map(len, message.buffers))
    if size > limits.answer:
        raise InvalidRequest(f"the comm's message has {size} bytes; at most {limits.answer} are allowed")
    return CommSaid(
        comm_id=identifier(message.comm_id, "the comm id", limits),
        kind=kind,
        data=_object(said.data_json, "the comm's data"),
        target_name=said.target_name if kind == "open" else "",
        metadata=_object(said.metadata_json, "the comm's metadata") if kind == "open" else {},
        buffers=tuple(message.buffers),
    )


def question(kind: str, code: str, cursor: int | None, limits: LimitsConfig, *, detail_level: int = 0) -> Question:
    """A question about a place in code; the end of the code, where no place is given."""
    length = len(source(code, limits))
    if cursor is not None and not 0 <= cursor <= length:
        raise InvalidRequest(f"the cursor is at {cursor}, the code has {length} characters")
    if detail_level not in (0, 1):
        raise InvalidRequest(f"the detail level is 0 or 1, not {detail_level}")
    return Question(kind, code, length if cursor is None else cursor, detail_level)


def manner(message: executions_pb2.Start, limits: LimitsConfig) -> Manner:
    """How a source is to be run."""
    if not message.HasField("manner"):
        return USUAL
    asked = message.manner
    expressions = tuple(sorted(asked.user_expressions.items()))
    if len(expressions) > _MAX_EXPRESSIONS:
        raise InvalidRequest(f"at most {_MAX_EXPRESSIONS} user expressions, not {len(expressions)}")
    for _, expression in expressions:
        source(expression, limits)
    return Manner(
        silent=asked.silent,
        store_history=asked.store_history if asked.HasField("store_history") else None,
        user_expressions=expressions,
        payload=asked.payload,
    )


def history(message: kernels_pb2.HistoryRequest, limit: int) -> Question:
    """What of a kernel's history is asked for; `limit`: how many entries at most."""
    if message.limit < 0:
        raise InvalidRequest(f"a limit is not negative: {message.limit}")
    if message.HasField("range") and message.HasField("search"):
        raise InvalidRequest("a range of the history, or a search in it, not both")
    span = search = None
    if message.HasField("range"):
        stop = message.range.stop if message.range.HasField("stop") else None
        span = (message.range.session, message.range.start, stop)
    if message.HasField("search"):
        if len(message.search.pattern) > _MAX_PATTERN:
            raise InvalidRequest(f"a pattern has at most {_MAX_PATTERN} characters")
        search = (message.search.pattern, message.search.unique)
    return Question(
        "history",
        limit=min(message.limit or limit, limit),
        span=span,
        search=search,
        output=message.output,
        transformed=message.transformed,
    )


def kernel_settings(message: kernels_pb2.KernelSettings, caller: Caller, config: Config) -> KernelSettings:
    """Settings of a kernel with the defaults filled in. Raises PermissionDenied for the process runtime."""
    kernel_type = message.kernel_type or "python"
    if kernel_type not in KERNEL_TYPES:
        raise InvalidRequest(f"unsupported kernel type {kernel_type!r}: {' or '.join(KERNEL_TYPES)}")
    wanted_env = message.env_source or "auto"
    if wanted_env not in ENV_SOURCES:
        raise InvalidRequest(f"unsupported env_source {wanted_env!r}: one of {', '.join(ENV_SOURCES)}")
    runtime = message.runtime or config.runtime[0]
    if runtime == "process" and not caller.operator:
        raise PermissionDenied("the process runtime isolates nothing: it is for the operator alone")
    wanted_template, known = template(message.template, caller, config)
    if "@" in wanted_template and kernel_type != "python":
        raise InvalidRequest(f"a python_version goes with Python kernels, not with {kernel_type}")
    # A template's policy is a container's: the process runtime, which is named to do without, has none.
    usual = known.network if runtime != "process" else "none"
    network = message.network or usual
    if network not in NETWORKS:
        raise InvalidRequest(f"unknown network policy {network!r}: one of {', '.join(NETWORKS)}")
    for name in message.require:
        if name not in CAPABILITIES:
            raise InvalidRequest(f"unknown capability {name!r}: one of {', '.join(CAPABILITIES)}")
    sandboxes = config.sandboxes
    env_source, definition = environment(kernel_type, wanted_env, message, config.environments)
    return KernelSettings(
        kernel_type=kernel_type,
        env_source=env_source,
        definition=definition,
        runtime=runtime,
        template=wanted_template,
        network=network,
        named=frozenset(name for name in ("runtime", "template", "network") if getattr(message, name)),
        require=frozenset(message.require),
        env=_env(message.env),
        files=_files(message.files, config.limits),
        start_timeout_s=_or(message.start_timeout_s, sandboxes.start_timeout, "start_timeout"),
        idle_timeout_s=_or(message.idle_timeout_s, sandboxes.idle_timeout, "idle_timeout"),
        ttl_s=_or(message.ttl_s, sandboxes.ttl, "ttl"),
    )


def template(name: str, caller: Caller, config: Config) -> tuple[str, TemplateConfig]:
    """A template that this caller may name; of others they hear nothing. Raises InvalidRequest."""
    base, _ = templates.split(name)
    may_name = templates.offered(config.templates, caller.tenant, operator=caller.operator)
    if base not in may_name:
        raise templates.unknown(name or base, may_name)
    return name or base, config.templates[base]


def path(value: str, *, home_too: bool = False) -> str:
    """A path in the home of a sandbox, relative to it; the home itself only where that makes sense."""
    try:
        names = split_path(value)
    except ValueError as bad:
        raise InvalidRequest(f"the path {value[:200]!r}: {bad}", path=value[:200]) from None
    if not names and not home_too:
        raise InvalidRequest(f"the path {value[:200]!r} names no file", path=value[:200])
    return "/".join(names)


def command(message: processes_pb2.ExecStart, limits: LimitsConfig) -> RunCommand:
    """A command with its arguments."""
    argv = tuple(message.argv)
    if not argv or not argv[0]:
        raise InvalidRequest("a command is a program and its arguments; the program is missing")
    if len(argv) > _MAX_ARGUMENTS or sum(len(word.encode()) + 1 for word in argv) > _MAX_ARGUMENT_BYTES:
        raise InvalidRequest(
            f"a command has at most {_MAX_ARGUMENTS} arguments with {_MAX_ARGUMENT_BYTES} bytes in all"
        )
    if any("\0" in word for word in argv):
        raise InvalidRequest("an argument of a command has no NUL")
    timeout = seconds(message.timeout_s, "timeout") if message.timeout_s else 0.0
    return RunCommand(argv, timeout, limits.command_output)


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json_text.parse(text) if text else {}
    except ValueError as bad:
        raise InvalidRequest(f"{what} is no JSON: {bad}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} is no JSON object")
    return value


def _or(value: float, default: float, what: str) -> float:
    return seconds(value, what) if value else default


def _env(env: Any) -> dict[str, str]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise InvalidRequest(f"{name!r} is no name or value for an environment variable")
    return dict(env)


def _files(files: Any, limits: LimitsConfig) -> dict[str, bytes]:
    total = sum(len(file.content) for file in files)
    if total > limits.files:
        raise InvalidRequest(f"the files have {total} bytes; at most {limits.files} are allowed")
    for file in files:
        name = file.name
        if not name or name in (".", "..") or "/" in name or "\0" in name or len(name.encode()) > _MAX_FILE_NAME:
            raise InvalidRequest(f"{name!r} is no plain file name")
    return {file.name: file.content for file in files}
