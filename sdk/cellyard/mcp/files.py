"""The tools for files in a notebook's sandbox."""

from __future__ import annotations

import base64
import binascii

from mcp import types

from cellyard.errors import InvalidRequest
from cellyard.mcp import arguments, bounds, results
from cellyard.mcp.rendering import MAX_IMAGE_BYTES
from cellyard.mcp.tools import Call, Tool, listing

MAX_ENTRIES = 500
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


async def list_files(call: Call, given: arguments.ListFiles) -> types.CallToolResult:
    """What lies in a folder."""
    async with call.at(given.notebook_id) as session:
        found = await session.list_files(given.path)
        shown = [results.fields(each, "path", "kind", "size", "modified_at") for each in found[:MAX_ENTRIES]]
        return results.data({"files": shown, "total": len(found)})


async def read_file(call: Call, given: arguments.ReadFile) -> types.CallToolResult:
    """A file, as text, bytes or an image."""
    async with call.at(given.notebook_id) as session:
        content = await session.download(given.path)
    if given.encoding == "image":
        return _image(given.path, content)
    if given.encoding == "base64":
        # Three bytes are four characters; parts that are whole threes can be joined.
        part = content[given.offset : given.offset + call.limit // 4 * 3]
        where = bounds.Page(" " * len(part), min(given.offset, len(content)), len(content))
        return results.text(base64.b64encode(part).decode("ascii") or "(nothing here)", _place(where, "bytes"))
    try:
        text = content.decode()
    except UnicodeDecodeError as bad:
        raise InvalidRequest(
            f"{given.path} is no UTF-8 text (byte {bad.start:,}): read it with encoding=base64, or image"
        ) from None
    page = bounds.page(text, given.offset, call.limit)
    return results.text(page.content or "(nothing here)", _place(page, "characters"))


async def write_file(call: Call, given: arguments.WriteFile) -> types.CallToolResult:
    """Writes a file, whole or not at all; starts a kernel where none runs."""
    if given.encoding == "text":
        content = given.content.encode()
    else:
        try:
            content = base64.b64decode(given.content, validate=True)
        except (binascii.Error, ValueError) as bad:
            raise InvalidRequest(f"the argument 'content' is no base64: {bad}") from None
    async with call.at(given.notebook_id, makes=True, kernel=True) as session:
        await session.upload(content, given.path)
    return results.text(f"{given.path}: {len(content):,} bytes written")


async def remove_file(call: Call, given: arguments.RemoveFile) -> types.CallToolResult:
    """Removes a file, or a folder that is empty."""
    async with call.at(given.notebook_id) as session:
        await session.remove_file(given.path)
    return results.text(f"{given.path} is removed")


def _place(page: bounds.Page, unit: str) -> str:
    said = results.place(page)
    return f"[{unit}{said.removeprefix('characters')}]" if said else ""


def _image(path: str, content: bytes) -> types.CallToolResult:
    mime = next((mime for magic, mime in _MAGIC if content.startswith(magic)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        mime = "image/webp"
    if mime is None:
        raise InvalidRequest(f"{path} is no PNG, JPEG, GIF or WebP: read it with another encoding")
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidRequest(f"{path} has {len(content):,} bytes, and at most {MAX_IMAGE_BYTES:,} can be shown")
    return results.image_file(mime, base64.b64encode(content).decode("ascii"))


TOOLS = (
    Tool(
        "list_files",
        "List files",
        "Lists a folder of the kernel's home. Files live as long as the kernel's sandbox.",
        arguments.ListFiles,
        list_files,
        reads=True,
        gives=listing("files", total={"type": "integer"}),
    ),
    Tool(
        "read_file",
        "Read a file",
        "Reads a file of the kernel's home as text, base64 or an image; a long one in parts.",
        arguments.ReadFile,
        read_file,
        reads=True,
    ),
    Tool(
        "write_file",
        "Write a file",
        "Writes a file into the kernel's home, in the place of an older one; missing folders are made.",
        arguments.WriteFile,
        write_file,
        destroys=True,
        repeatable=True,
    ),
    Tool(
        "remove_file",
        "Remove a file",
        "Removes a file or an empty folder of the kernel's home.",
        arguments.RemoveFile,
        remove_file,
        destroys=True,
    ),
)
