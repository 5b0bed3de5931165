"""Notebooks as Jupyter's nbformat 4 has them: read from JSON and written as JSON. Pure conversion.

What is read is checked against nbformat's schemas 4.0 to 4.5 as far as something would be lost or misread otherwise:
fields that the format does not have are refused, fields that are merely missing get their empty value, and what is
inside of metadata is nobody's business. Text in several lines is joined. Like Jupyter, neither side keeps what the
format calls transient (`trusted`, `signature`, `orig_nbformat`).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cellyard_controller import json_text
from cellyard_controller.config import LimitsConfig
from cellyard_controller.errors import InvalidRequest
from cellyard_controller.ids import CellId
from cellyard_controller.notebooks.document import CELL_TYPES, NBFORMAT_MINOR
from cellyard_proto.outputs import BlobRef, NbOutput, is_json_type

_CELL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TRANSIENT_OF_NOTEBOOK = ("orig_nbformat", "orig_nbformat_minor", "signature")
_TRANSIENT_OF_CELL = ("trusted",)
_LEVELS_ABOVE_METADATA = 10
_BYTES_OF_CELL = 10
"""What a cell counts besides its source: a document pays for each character, and as much for each key of a map."""
_MAX_COUNT = 2**31 - 1
_OUTPUT_FIELDS = {
    "stream": {"name", "text"},
    "display_data": {"data", "metadata"},
    "execute_result": {"data", "metadata", "execution_count"},
    "error": {"ename", "evalue", "traceback"},
}


@dataclass(frozen=True, slots=True)
class NbCell:
    """A cell of a file. `outputs` and `execution_count` are those of a code cell."""

    cell_id: CellId
    cell_type: str
    source: str
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, Any] | None = None
    outputs: list[NbOutput] = field(default_factory=list)
    execution_count: int | None = None


@dataclass(frozen=True, slots=True)
class NbNotebook:
    """A file's content. The ids of its cells are distinct."""

    minor: int
    metadata: dict[str, Any]
    cells: list[NbCell]


def read(content: bytes, limits: LimitsConfig) -> NbNotebook:
    """A notebook from its JSON. Raises InvalidRequest with the place of what is wrong.

    Cell ids that are missing (nbformat 4.0 to 4.4), not valid, or there twice are made anew.
    """
    try:
        value = json_text.parse(content.decode("utf-8-sig"), max_depth=json_text.MAX_DEPTH + _LEVELS_ABOVE_METADATA)
    except ValueError as bad:
        raise InvalidRequest(f"the notebook is no JSON that can be read: {bad}") from None
    if not isinstance(value, dict) or "nbformat" not in value:
        raise InvalidRequest("this is no notebook: the JSON is no object with `nbformat`")
    major, minor = value["nbformat"], value.get("nbformat_minor", 0)
    if major != 4 or not _is_int(minor) or not 0 <= minor <= NBFORMAT_MINOR:
        raise InvalidRequest(
            f"the notebook has nbformat {_short(major)}.{_short(minor)}; 4.0 to 4.{NBFORMAT_MINOR} can be imported"
        )
    notebook = _object(value, "the notebook", {"nbformat", "nbformat_minor", "metadata", "cells"})
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        _refuse("cells", "is no array")
    metadata = _metadata(notebook, "metadata", limits, _TRANSIENT_OF_NOTEBOOK)
    taken: set[str] = set()
    found = [_cell(cell, f"cells[{n}]", limits, taken) for n, cell in enumerate(cells)]
    size = sum(len(cell.source.encode()) + len(cell.metadata) + _BYTES_OF_CELL for cell in found)
    if size > limits.source:
        _refuse("cells", f"have together sources of {size} bytes (each cell counts some more); limit {limits.source}")
    return NbNotebook(minor, metadata, found)


# Reading


def _cell(value: Any, where: str, limits: LimitsConfig, taken: set[str]) -> NbCell:
    kind = value.get("cell_type") if isinstance(value, dict) else None
    if kind not in CELL_TYPES:
        _refuse(where, f"has the cell type {_short(kind)}, not one of {', '.join(CELL_TYPES)}")
    own = {"outputs", "execution_count"} if kind == "code" else {"attachments"}
    cell = _object(value, where, {"cell_type", "id", "metadata", "source", *own})
    attachments = cell.get("attachments")
    if attachments is not None:
        attachments = {
            name: _bundle(bundle, f"{where}.attachments[{_short(name)}]")
            for name, bundle in _object(attachments, f"{where}.attachments").items()
        }
    outputs = cell.get("outputs", [])
    if not isinstance(outputs, list):
        _refuse(f"{where}.outputs", "is no array")
    return NbCell(
        cell_id=_cell_id(cell.get("id"), taken),
        cell_type=kind,
        source=_text(cell.get("source", ""), f"{where}.source"),
        metadata=_metadata(cell, f"{where}.metadata", limits, _TRANSIENT_OF_CELL),
        attachments=attachments,
        outputs=[_output(output, f"{where}.outputs[{n}]") for n, output in enumerate(outputs)],
        execution_count=_count(cell.get("execution_count"), f"{where}.execution_count"),
    )


def _output(value: Any, where: str) -> NbOutput:
    kind = value.get("output_type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _OUTPUT_FIELDS:
        _refuse(where, f"has the output type {_short(kind)}, not one of {', '.join(_OUTPUT_FIELDS)}")
    output = _object(value, where, {"output_type", *_OUTPUT_FIELDS[kind]})
    for name in {"name", "text", "ename", "evalue"} & _OUTPUT_FIELDS[kind]:
        output[name] = _text(output.get(name), f"{where}.{name}")
    if kind == "error":
        traceback = output.get("traceback")
        if not isinstance(traceback, list):
            _refuse(f"{where}.traceback", "is no array")
        output["traceback"] = [_text(line, f"{where}.traceback[{n}]") for n, line in enumerate(traceback)]
    elif kind != "stream":
        output["data"] = _bundle(output.get("data"), f"{where}.data")
        output["metadata"] = _object(output.get("metadata", {}), f"{where}.metadata")
    if kind == "execute_result":
        output["execution_count"] = _count(output.get("execution_count"), f"{where}.execution_count")
    return output


def _bundle(value: Any, where: str) -> dict[str, Any]:
    """Data by MIME type. Lines are joined, except in JSON, where an array is an array."""
    bundle = _object(value, where)
    for mime, data in bundle.items():
        _text(mime, where)
        lines = isinstance(data, list) and all(isinstance(line, str) for line in data)
        if not is_json_type(mime) and (lines or isinstance(data, str)):
            bundle[mime] = _text(data, f"{where}[{_short(mime)}]")
    return bundle


def _metadata(parent: Mapping[str, Any], where: str, limits: LimitsConfig, transient: Iterable[str]) -> dict[str, Any]:
    metadata = _without(_object(parent.get("metadata", {}), where), transient)
    for key in metadata:
        _text(key, where)
    if len(json.dumps(metadata)) > limits.metadata:
        _refuse(where, f"is larger than {limits.metadata} bytes")
    return metadata


def _object(value: Any, where: str, fields: Collection[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, "is no object")
    unknown = value.keys() - fields if fields is not None else ()
    if unknown:
        _refuse(where, f"has the field {_short(min(unknown))}, which nbformat 4.{NBFORMAT_MINOR} does not know")
    return value


def _text(value: Any, where: str) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "".join(value)
    if not isinstance(value, str):
        _refuse(where, "is no text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(where, "has half of a surrogate pair, which is no character")
    return value


def _count(value: Any, where: str) -> int | None:
    if value is not None and not (_is_int(value) and 0 <= value <= _MAX_COUNT):
        _refuse(where, f"is {_short(value)}, neither null nor a number from 0 to {_MAX_COUNT}")
    return None if value is None else int(value)


def _cell_id(value: Any, taken: set[str]) -> CellId:
    valid = isinstance(value, str) and _CELL_ID.fullmatch(value) is not None and value not in taken
    cell_id = value if valid else f"cell-{uuid.uuid4()}"
    taken.add(cell_id)
    return CellId(cell_id)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


def _refuse(where: str, why: str) -> NoReturn:
    raise InvalidRequest(f"the notebook cannot be imported: {where} {why}")


# Writing: opening, cells, closing, so that nobody has to hold the whole text or the interpreter's lock for all of it

CLOSING = "\n]}\n"


def opening(minor: int, metadata: Mapping[str, Any]) -> str:
    """The JSON before the cells."""
    head = {"nbformat": 4, "nbformat_minor": minor, "metadata": _without(metadata, _TRANSIENT_OF_NOTEBOOK)}
    return f'{json.dumps(head)[:-1]}, "cells": [\n'


def cells_json(cells: Iterable[NbCell], minor: int) -> list[str | BlobRef]:
    """Cells as they stand between opening and closing; ",\\n" belongs between two such texts.

    Parts that are kept elsewhere stand between texts, where their JSON belongs.
    """
    refs: list[BlobRef] = []
    mark = secrets.token_hex(16)  # nobody can have written it before

    def stand_in(value: object) -> str:
        if not isinstance(value, BlobRef):
            raise TypeError(f"no JSON: {type(value).__name__}")
        refs.append(value)
        return mark

    text = ",\n".join(json.dumps(_written(cell, with_id=minor >= 5), default=stand_in) for cell in cells)
    first, *others = text.split(f'"{mark}"')
    parts: list[str | BlobRef] = [first]
    for ref, other in zip(refs, others, strict=True):
        parts += [ref, other]
    return parts


def file_ids(cell_ids: Iterable[CellId]) -> dict[CellId, CellId]:
    """Ids that nbformat allows, distinct, and the same every time: its own where possible, else made from it."""
    ids = {cell_id: _file_id(cell_id) for cell_id in cell_ids}
    return ids if len(set(ids.values())) == len(ids) else {cell_id: _made_from(cell_id) for cell_id in ids}


def _written(cell: NbCell, *, with_id: bool) -> dict[str, Any]:
    written: dict[str, Any] = {"cell_type": cell.cell_type}
    if with_id:
        written["id"] = cell.cell_id
    written["metadata"] = _without(cell.metadata, _TRANSIENT_OF_CELL)
    written["source"] = cell.source
    if cell.cell_type == "code":
        written["execution_count"] = cell.execution_count
        written["outputs"] = [_without(output, ("transient",)) for output in cell.outputs]
    elif cell.attachments is not None:
        written["attachments"] = cell.attachments
    return written


def _file_id(cell_id: CellId) -> CellId:
    return cell_id if _CELL_ID.fullmatch(cell_id) else _made_from(cell_id)


def _made_from(cell_id: CellId) -> CellId:
    return CellId(f"cell-{hashlib.sha256(cell_id.encode()).hexdigest()[:32]}")


def _without(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
