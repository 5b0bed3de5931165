"""How code in a sandbox calls the functions of its client. Runs in the kernel and in what that starts.

Imports nothing outside the standard library, and little of that.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from cellyard_proto import values
from cellyard_sandbox import host_frames


class HostError(RuntimeError):
    """A call to a function of the client has no result. This very class: it was not even made."""


class HostUnavailable(HostError):
    """Nobody answers: nothing offers this function, whoever did has gone, or the cell that calls has ended."""


class HostCallError(HostError):
    """The function raised."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(name, message)
        self.name = name
        """Name of the exception that it raised: "ValueError", ..."""
        self.message = message

    def __str__(self) -> str:
        return f"{self.name}: {self.message}"


def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function that the client offers, and waits for what it returns.

    Raises HostCallError where the function raised, HostUnavailable where nobody answers, HostError where too many
    calls are open, TypeError for an argument that is no data, ValueError for arguments of more than 1 MiB.
    """
    request = _request(name, args, kwargs)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(_path())
        except OSError as failed:
            raise HostUnavailable(f"the sandbox's agent takes no calls: {failed}") from None
        try:
            connection.sendall(request)
        except OSError:
            pass  # refused before all of it was sent; the answer says why
        return _result(name, [_receive(connection, name) for _ in range(host_frames.ANSWER)])


async def acall(name: str, /, *args: Any, **kwargs: Any) -> Any:
    """As `call`, while other tasks of the event loop run. A task that is cancelled gives the call up."""
    import asyncio  # late: `call` needs none of it

    request = _request(name, args, kwargs)
    try:
        reader, writer = await asyncio.open_unix_connection(_path())
    except OSError as failed:
        raise HostUnavailable(f"the sandbox's agent takes no calls: {failed}") from None
    try:
        writer.write(request)
        frames = []
        for _ in range(host_frames.ANSWER):
            length = host_frames.length(await reader.readexactly(host_frames.LENGTH_BYTES))
            frames.append(await reader.readexactly(length))
    except (OSError, asyncio.IncompleteReadError):
        raise _dropped(name) from None
    finally:
        writer.close()
    return _result(name, frames)


def _path() -> str:
    path = os.environ.get(host_frames.SOCKET_VARIABLE)
    if not path:
        raise HostUnavailable("this code runs outside of a sandbox")
    return path


def _request(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    if not isinstance(name, str):
        raise TypeError(f"the name of a function is a str, not {type(name).__name__}")
    positional = ",".join(_data(name, f"argument {number}", value) for number, value in enumerate(args, 1))
    named = ",".join(f"{json.dumps(key)}:{_data(name, f'argument {key!r}', value)}" for key, value in kwargs.items())
    frames = [part.encode() for part in (json.dumps(name), f"[{positional}]", f"{{{named}}}")]
    size = sum(map(len, frames))
    if size > host_frames.MAX_REQUEST:
        raise ValueError(f"the arguments of {name!r} take {size} bytes, more than {host_frames.MAX_REQUEST}")
    return b"".join(map(host_frames.frame, frames))


def _data(name: str, which: str, value: Any) -> str:
    try:
        return values.encode(value)
    except values.TooLarge as large:
        raise ValueError(f"{which} of {name!r} is {large}") from None
    except values.NotData as bad:
        raise TypeError(f"{which} of {name!r} is no data: {bad}") from None


def _receive(connection: socket.socket, name: str) -> bytes:
    length = host_frames.length(_exactly(connection, host_frames.LENGTH_BYTES, name))
    return _exactly(connection, length, name)


def _exactly(connection: socket.socket, size: int, name: str) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            data = connection.recv(min(size - len(received), 1 << 20))
        except OSError:
            data = b""
        if not data:
            raise _dropped(name)
        received += data
    return bytes(received)


def _dropped(name: str) -> HostUnavailable:
    return HostUnavailable(f"the call of {name!r} was dropped: the kernel is going down")


def _result(name: str, frames: list[bytes]) -> Any:
    kind, content = frames[0].decode(), frames[1].decode()
    if kind == host_frames.VALUE:
        try:
            return values.decode(content)
        except (ValueError, TypeError, RecursionError) as bad:
            raise HostError(f"what {name!r} returned cannot be read: {bad}") from None
    if kind == host_frames.ERROR:
        raise HostCallError(**json.loads(content))
    raise (HostUnavailable if kind == host_frames.UNAVAILABLE else HostError)(content)
