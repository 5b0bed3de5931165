"""What the tools take, as models of their arguments: types are strict, bounds are said, nothing is guessed.

The schemas that clients see are made from these; descriptions are written for models. What the controller knows
better (which paths, ids and packages there are) is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellyard.errors import InvalidRequest

MAX_SOURCE = 4 * 1024 * 1024
MAX_CONTENT = 10_000_000
MAX_SECONDS = 24 * 3600.0
_FEW = 5

NotebookId = Annotated[
    str | None,
    Field(
        description="The notebook's id. Left out: this server's own notebook.",
        min_length=1,
        max_length=256,
    ),
]
CellId = Annotated[str, Field(description="The cell's id, as list_cells gives it.", min_length=1, max_length=256)]
ExecutionId = Annotated[str, Field(description="As run_code and list_cells give it.", min_length=1, max_length=256)]
Timeout = Annotated[
    float | None,
    Field(
        description="Seconds that the code may run, counted from its start; then it is interrupted."
        " Left out: the server's setting.",
        gt=0,
        le=MAX_SECONDS,
        allow_inf_nan=False,
    ),
]
Offset = Annotated[int, Field(description="Where to begin; a result that is cut says where to go on.", ge=0, le=2**62)]
Path = Annotated[
    str,
    Field(description="Relative to the kernel's home, which is its working directory.", min_length=1, max_length=4095),
]


class Arguments(BaseModel):
    """Base of them all: unknown names are refused, and "5" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OfNotebook(Arguments):
    notebook_id: NotebookId = None


class RunCode(OfNotebook):
    code: Annotated[str, Field(description="Python source, of as many lines as you like.", max_length=MAX_SOURCE)]
    timeout_s: Timeout = None


class RunCell(OfNotebook):
    cell_id: CellId
    timeout_s: Timeout = None


class ReadOutput(OfNotebook):
    execution_id: ExecutionId
    offset: Offset = 0
    image: Annotated[
        int | None, Field(description="The number of an image: that image is given, and no text.", ge=1, le=10_000)
    ] = None
    wait_s: Annotated[
        float,
        Field(description="Seconds to wait for the end of code that still runs.", ge=0, le=3600, allow_inf_nan=False),
    ] = 0.0


class ListExecutions(OfNotebook):
    limit: Annotated[int, Field(description="How many at most, the newest first.", ge=1, le=100)] = 20


class ListCells(OfNotebook):
    start: Annotated[int, Field(description="The first cell to list, counted from 0.", ge=0, le=2**62)] = 0
    limit: Annotated[int, Field(description="How many cells at most.", ge=1, le=200)] = 100


class GetCell(OfNotebook):
    cell_id: CellId
    offset: Annotated[int, Field(description="The first character of the source to give.", ge=0, le=2**62)] = 0


class CreateCell(OfNotebook):
    source: Annotated[str, Field(description="The cell's text.", max_length=MAX_SOURCE)]
    cell_type: Literal["code", "markdown", "raw"] = "code"
    index: Annotated[
        int | None, Field(description="Its place, counted from 0. Left out: at the end.", ge=0, le=2**62)
    ] = None


class EditCell(OfNotebook):
    cell_id: CellId
    source: Annotated[str, Field(description="The whole new text.", max_length=MAX_SOURCE)]
    if_version: Annotated[
        str | None,
        Field(
            description="The version that get_cell gave: where somebody changed the cell since, this edit is refused.",
            min_length=1,
            max_length=256,
        ),
    ] = None


class DeleteCell(OfNotebook):
    cell_id: CellId


class MoveCell(OfNotebook):
    cell_id: CellId
    after: Annotated[
        str | None,
        Field(description="The cell to put it behind. Left out: it becomes the first.", min_length=1, max_length=256),
    ] = None


class ListFiles(OfNotebook):
    path: Path = "."


class ReadFile(OfNotebook):
    path: Path
    encoding: Annotated[
        Literal["text", "base64", "image"],
        Field(description="text: UTF-8. base64: any bytes. image: a PNG, JPEG, GIF or WebP is shown as one."),
    ] = "text"
    offset: Annotated[
        int, Field(description="The first character (text) or byte (base64) to give.", ge=0, le=2**62)
    ] = 0


class WriteFile(OfNotebook):
    path: Path
    content: Annotated[str, Field(description="What the file is to hold.", max_length=MAX_CONTENT)]
    encoding: Annotated[
        Literal["text", "base64"], Field(description="text: written as UTF-8. base64: decoded first.")
    ] = "text"


class RemoveFile(OfNotebook):
    path: Path


class InstallPackages(OfNotebook):
    requirements: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]],
        Field(description='Names, extras and versions, e.g. ["polars>=1"]. No URLs.', min_length=1, max_length=100),
    ]


class ListNotebooks(Arguments):
    limit: Annotated[int, Field(description="How many at most.", ge=1, le=1000)] = 100
    after: Annotated[
        str | None,
        Field(description="Only those whose id sorts after this one: for the next page.", min_length=1, max_length=256),
    ] = None


class NoArguments(Arguments):
    pass


Given = TypeVar("Given", bound=Arguments)


def parse(tool: str, model: type[Given], given: Mapping[str, Any]) -> Given:
    """The arguments, checked. Raises InvalidRequest with a sentence that names each that is wrong."""
    try:
        return model.model_validate(dict(given))
    except ValidationError as wrong:
        found = wrong.errors(include_url=False, include_context=True)
    said = [_said(tool, model, each) for each in found[:_FEW]]
    more = f"; and {len(found) - _FEW} more" if len(found) > _FEW else ""
    raise InvalidRequest("; ".join(said) + more) from None


def schema(model: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of a tool's arguments, without the titles that only repeat names."""
    made = model.model_json_schema()
    made.pop("title", None)
    made.pop("description", None)
    for argument in made.get("properties", {}).values():
        argument.pop("title", None)
    return made


def _said(tool: str, model: type[Arguments], error: Mapping[str, Any]) -> str:
    # What was given is not repeated: it may be long.
    name = ".".join(str(part)[:60] for part in error["loc"])
    if error["type"] == "extra_forbidden":
        takes = ", ".join(model.model_fields) or "no arguments"
        return f"unknown argument {name!r}: {tool} takes {takes}"
    if error["type"] == "missing":
        return f"the argument {name!r} is missing"
    if error["type"].endswith("_type"):
        return f"the argument {name!r}: {error['msg']}, and a JSON {_kind(error['input'])} was given"
    return f"the argument {name!r}: {error['msg']}"


def _kind(value: object) -> str:
    """How JSON calls it."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"
