"""The worker's process: frames on stdin, answers on stdout, one after the other. It ends with its controller.

Arguments: the controller's process id, limits as a JSON object. Whatever a message does to this process, the
controller starts another one.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from cellyard_controller.replicas import frames
from cellyard_controller.replicas.inspection import SchemaLimits
from cellyard_controller.replicas.merging import Merged, MergeLimits, Merging, Refused, Unknown

_PR_SET_PDEATHSIG = 1
_PAGE = resource.getpagesize()


def main() -> int:
    """Serves until stdin ends."""
    controller, given = int(sys.argv[1]), json.loads(sys.argv[2])
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        return 1
    if os.getppid() != controller:
        return 1  # it died before the kernel knew whom to tell
    memory, comfortable = given.pop("memory"), given.pop("comfortable")
    limits = MergeLimits(schema=SchemaLimits(**given.pop("schema")), **given)
    for name, limit in {"AS": _mapped() + memory, "CORE": 0, "FSIZE": 0, "NOFILE": 8}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    merging = Merging(limits)
    sys.stdout.buffer.write(frames.encode({"ready": True}))
    sys.stdout.buffer.flush()
    while (asked := read(sys.stdin.buffer)) is not None:
        head, contents = answer(merging, *asked)
        while resident() > comfortable and merging.forget_oldest():
            pass
        head["resident"] = resident()
        sys.stdout.buffer.write(frames.encode(head, contents))
        sys.stdout.buffer.flush()
    return 0


def answer(merging: Merging, head: dict[str, Any], contents: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """Does what is asked for, and says what became of it."""
    try:
        return _done(merging, head, contents)
    except Unknown as unknown:
        return {"unknown": str(unknown)}, []
    except Refused as refused:
        return {"refused": str(refused)}, []
    except BaseException as panic:  # automerge's panics are no Exceptions; whatever it was, the copy may be half done
        if isinstance(panic, KeyboardInterrupt | SystemExit):
            raise
        merging.forget(head.get("document", ""))
        return {"panic": f"{type(panic).__name__}: {panic}"[:1000]}, []


def _done(merging: Merging, head: dict[str, Any], contents: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
    document, stream = head.get("document", ""), head.get("stream", "")
    out: list[bytes] = []
    found: dict[str, Any] = {}
    match head["do"]:
        case "load":
            merging.load(document, contents)
        case "follow":
            merging.follow(document, contents)
        case "open":
            merging.open(stream, contents[0])
        case "close":
            merging.close(stream)
        case "forget":
            merging.forget(document)
        case "generate":
            message = merging.generate(document, stream)
            out = [] if message is None else [message]
        case "receive":
            merged: Merged = merging.receive(document, stream, contents[0])
            out = merged.changes
            found = {"operations": merged.operations, "touched": merged.touched, "removed": merged.removed}
    if head["do"] in ("load", "follow", "receive"):
        found["heads"] = [each.hex() for each in merging.heads(document)]
    return found, out


def read(source: BinaryIO) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame; None where there are no more."""
    length = source.read(frames.LENGTH.size)
    if len(length) < frames.LENGTH.size:
        return None
    head, sizes = frames.head(source.read(frames.head_size(length)))
    return head, [source.read(size) for size in sizes]


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return int(file.read().split()[1]) * _PAGE


def _mapped() -> int:
    """Bytes of address space in use before any work."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * _PAGE


if __name__ == "__main__":
    sys.exit(main())
