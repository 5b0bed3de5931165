"""The gRPC reference: one page a .proto file, from its comments. Written when the site is built, never committed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "proto" / "cellyard_proto" / "v1"
PACKAGE = "cellyard.v1"
NOT_FOR_CLIENTS = {"link"}
"""What controller and agent say to one another."""

# Numbers of fields in descriptor.proto, of which the paths of comments are made.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED, _NESTED_ENUM = 2, 3, 4
_METHOD = _VALUE = 2

Path_ = tuple[int, ...]


def pages() -> dict[str, str]:
    """Markdown by the name of the page: `executions.md`, ..., and `index.md`."""
    files = {_stem(file): _File(file) for file in _descriptors() if file.package == PACKAGE}
    files = {name: file for name, file in sorted(files.items()) if name not in NOT_FOR_CLIENTS}
    places = {name: f"{stem}.md#{_anchor(name)}" for stem, file in files.items() for name in file.types}
    written = {f"{stem}.md": "\n".join(file.markdown(stem, places)) + "\n" for stem, file in files.items()}
    return {"index.md": _index(files), **written}


def _descriptors() -> Sequence[FileDescriptorProto]:
    with tempfile.NamedTemporaryFile() as out:
        sources = [str(path.relative_to(ROOT / "proto")) for path in sorted(PROTOS.glob("*.proto"))]
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={out.name}", *sources], cwd=ROOT / "proto", check=True)
        return FileDescriptorSet.FromString(Path(out.name).read_bytes()).file


def _stem(file: FileDescriptorProto) -> str:
    return Path(file.name).stem


def _anchor(name: str) -> str:
    return name.lower().replace(".", "-")


def _index(files: dict[str, _File]) -> str:
    lines = [
        "# gRPC reference",
        "",
        "Made from the comments of `proto/cellyard_proto/v1/*.proto`, package `cellyard.v1`. [How the parts play"
        " together](../../protocol.md): connecting, running code, following a notebook, errors, limits.",
        "",
        "| file | services | for |",
        "| --- | --- | --- |",
    ]
    for stem, file in files.items():
        services = ", ".join(f"[`{service.name}`]({stem}.md#{_anchor(service.name)})" for service in file.proto.service)
        about = next((_first(file.comment((_SERVICE, at))) for at, _ in enumerate(file.proto.service)), "messages")
        lines.append(f"| [{stem}]({stem}.md) | {services} | {_cell(about)} |")
    return "\n".join(lines) + "\n"


def _first(text: str) -> str:
    return text.partition(". ")[0].partition(".\n")[0].removesuffix(".") + "."


def _cell(text: str) -> str:
    """Text that fits into a row of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


@dataclass
class _Named:
    """A message or an enum with the name that a reader knows it by, and where it stands in its file."""

    name: str
    path: Path_
    message: DescriptorProto | None = None
    enum: EnumDescriptorProto | None = None


class _File:
    """One .proto file."""

    def __init__(self, proto: FileDescriptorProto) -> None:
        self.proto = proto
        self._comments = {tuple(place.path): place for place in proto.source_code_info.location}
        self.types = {named.name: named for named in self._named()}

    def comment(self, path: Path_) -> str:
        """What stands above something, or behind it on its line."""
        place = self._comments.get(path)
        if place is None:
            return ""
        text = place.leading_comments or place.trailing_comments
        return "\n".join(line.removeprefix(" ") for line in text.strip("\n").splitlines())

    def _named(self) -> Iterator[_Named]:
        for at, message in enumerate(self.proto.message_type):
            yield from self._messages(message, message.name, (_MESSAGE, at))
        for at, enum in enumerate(self.proto.enum_type):
            yield _Named(enum.name, (_ENUM, at), enum=enum)

    def _messages(self, message: DescriptorProto, name: str, path: Path_) -> Iterator[_Named]:
        if message.options.map_entry:
            return
        yield _Named(name, path, message=message)
        for at, nested in enumerate(message.nested_type):
            yield from self._messages(nested, f"{name}.{nested.name}", (*path, _NESTED, at))
        for at, enum in enumerate(message.enum_type):
            yield _Named(f"{name}.{enum.name}", (*path, _NESTED_ENUM, at), enum=enum)

    def markdown(self, stem: str, places: dict[str, str]) -> Iterator[str]:
        """The page's lines. `places`: where the types of all files are described."""
        yield f"# {stem}.proto\n"
        for at, service in enumerate(self.proto.service):
            yield from self._service(service, (_SERVICE, at), places)
        for named in self.types.values():
            yield f"## {named.name} {{ #{_anchor(named.name)} }}\n"
            yield self.comment(named.path) + "\n"
            if named.message is not None:
                yield from self._fields(named.message, named.path, places)
            if named.enum is not None:
                yield from self._values(named.enum, named.path)

    def _service(self, service: ServiceDescriptorProto, path: Path_, places: dict[str, str]) -> Iterator[str]:
        yield f"## {service.name} {{ #{_anchor(service.name)} }}\n"
        yield self.comment(path) + "\n"
        for at, method in enumerate(service.method):
            yield f"### {service.name}.{method.name} {{ #{_anchor(f'{service.name}-{method.name}')} }}\n"
            yield _signature(method, places) + "\n"
            yield self.comment((*path, _METHOD, at)) + "\n"

    def _fields(self, message: DescriptorProto, path: Path_, places: dict[str, str]) -> Iterator[str]:
        if not message.field:
            yield "It has no fields.\n"
            return
        yield "| field | type | meaning |\n| --- | --- | --- |"
        for at, field in enumerate(message.field):
            meaning = _cell(self.comment((*path, _FIELD, at)))
            if field.HasField("oneof_index") and not field.proto3_optional:
                one = message.oneof_decl[field.oneof_index].name
                meaning = f"One of `{one}`. {meaning}".strip()
            yield f"| `{field.name}` = {field.number} | {_type(field, message, places)} | {meaning} |"
        yield ""

    def _values(self, enum: EnumDescriptorProto, path: Path_) -> Iterator[str]:
        yield "| value | meaning |\n| --- | --- |"
        for at, value in enumerate(enum.value):
            yield f"| `{value.name}` = {value.number} | {_cell(self.comment((*path, _VALUE, at)))} |"
        yield ""


def _signature(method: MethodDescriptorProto, places: dict[str, str]) -> str:
    asked = ("stream " if method.client_streaming else "") + _link(method.input_type, places)
    answered = ("stream " if method.server_streaming else "") + _link(method.output_type, places)
    return f"{asked} → {answered}"


def _link(type_name: str, places: dict[str, str]) -> str:
    name = type_name.removeprefix(f".{PACKAGE}.")
    return f"[`{name}`]({places[name]})" if name in places else f"`{name.removeprefix('.')}`"


def _type(field: FieldDescriptorProto, message: DescriptorProto, places: dict[str, str]) -> str:
    entry = next(
        (each for each in message.nested_type if each.options.map_entry and field.type_name.endswith("." + each.name)),
        None,
    )
    if entry is not None:
        key, value = (_type(each, entry, places) for each in entry.field)
        return f"map of {key} to {value}"
    if field.type in (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM):
        kind = _link(field.type_name, places)
    else:
        kind = f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind
