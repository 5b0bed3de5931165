"""What tools give back, as the protocol has it: text within bounds, data, images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from mcp import types

from cellyard.errors import InvalidRequest
from cellyard.mcp import bounds
from cellyard.mcp.rendering import MAX_IMAGE_BYTES, MAX_IMAGES, Image, ending, rendered
from cellyard.results import End, ExecutionResult


def text(*parts: str, failed: bool = False) -> types.CallToolResult:
    """Text for the model."""
    return types.CallToolResult(content=[_block(part) for part in parts if part], isError=failed)


def data(value: dict[str, Any]) -> types.CallToolResult:
    """Data, and the same as text for clients that know nothing else."""
    plain = json.loads(json.dumps(value, default=_plain))
    shown = json.dumps(plain, ensure_ascii=False)
    return types.CallToolResult(content=[_block(shown)], structuredContent=plain)


def fields(value: Any, *names: str) -> dict[str, Any]:
    """Some fields of a dataclass; those that are None are left out."""
    return {name: getattr(value, name) for name in names if getattr(value, name) is not None}


def execution(result: ExecutionResult, notebook_id: str, limit: int) -> types.CallToolResult:
    """What an execution has shown, cut in the middle where it is long, and how it ended."""
    shown = rendered(result)
    of = f"execution_id={json.dumps(result.execution_id)}, notebook_id={json.dumps(notebook_id, ensure_ascii=False)}"
    read = f"read_output with {of} and offset="
    body = bounds.middle(shown.text, limit, lambda offset: f"{read}{offset} reads on")
    return _execution(result, notebook_id, body or "(no output)", shown.images)


def output_page(result: ExecutionResult, notebook_id: str, offset: int, limit: int) -> types.CallToolResult:
    """What an execution has shown from `offset` on."""
    shown = rendered(result)
    page = bounds.page(shown.text, offset, limit)
    end = page.offset + len(page.content)
    images = [image for image in shown.images if page.offset <= image.at < end]
    return _execution(result, notebook_id, page.content or "(nothing here)", images, place(page))


def place(page: bounds.Page) -> str:
    """Where a page stands, and where the next one begins."""
    if not page.offset and page.next_offset is None:
        return ""
    end = page.offset + len(page.content)
    more = "the end" if page.next_offset is None else f"go on with offset={page.next_offset}"
    return f"characters {page.offset:,} to {end:,} of {page.total:,}; {more}"


def one_image(result: ExecutionResult, number: int) -> types.CallToolResult:
    """One image of an execution. Raises InvalidRequest where it is not there, or too large."""
    images = rendered(result).images
    if number > len(images):
        raise InvalidRequest(f"execution {result.execution_id} has shown {len(images)} images, not {number}")
    image = images[number - 1]
    if not image.fits:
        raise InvalidRequest(
            f"image {number} has {len(image.content):,} bytes, and at most {MAX_IMAGE_BYTES:,} can be shown:"
            " have the code make a smaller one"
        )
    return types.CallToolResult(content=[_image(image.mime, image.base64())])


def image_file(mime: str, encoded: str) -> types.CallToolResult:
    """An image, base64 already."""
    return types.CallToolResult(content=[_image(mime, encoded)])


def _execution(
    result: ExecutionResult, notebook_id: str, body: str, images: Iterable[Image], where: str = ""
) -> types.CallToolResult:
    images = list(images)
    fitting = [image for image in images if image.fits][:MAX_IMAGES]
    left_out = [image for image in images if image not in fitting]
    facts = f"[execution {result.execution_id}, cell {result.cell_id}, notebook {notebook_id}: {ending(result)}]"
    notes = [facts]
    if where:
        notes.insert(0, f"[{where}]")
    if left_out:
        numbers = ", ".join(str(image.number) for image in left_out)
        notes.append(f"[not shown here: image {numbers}; read_output with image=N shows one]")
    return types.CallToolResult(
        content=[
            _block(body),
            *(_image(image.mime, image.base64()) for image in fitting),
            _block("\n".join(notes)),
        ],
        # What the code raised is a result; that it was cut short, or never ran, is a failure of the call.
        isError=result.end not in (None, End.SUCCEEDED, End.FAILED),
        _meta={
            "cellyard/notebook_id": notebook_id,
            "cellyard/cell_id": result.cell_id,
            "cellyard/execution_id": result.execution_id,
            "cellyard/status": str(result.status),
            "cellyard/execution_count": result.execution_count,
        },
    )


def _block(content: str) -> types.TextContent:
    # A lone surrogate, which a kernel may have written, could not be sent.
    return types.TextContent(type="text", text=content.encode("utf-8", "replace").decode("utf-8"))


def _image(mime: str, encoded: str) -> types.ImageContent:
    return types.ImageContent(type="image", data=encoded, mimeType=mime)


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
