"""From a name to a connection: resolved once, checked, and connected to the very address that was checked."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from cellyard_controller.egress import addresses
from cellyard_controller.egress.names import Destination
from cellyard_controller.egress.targets import PRIVATE_ADDRESS, Denial, Denied

RESOLVE_WITHIN = 10.0
CONNECT_WITHIN = 10.0
"""Seconds."""
BUFFER = 64 * 1024
"""Bytes that a connection holds in each direction before its sender has to wait."""
_RESOLVERS = 32
_ADDRESSES_MAX = 8

Resolve = Callable[[str], list[str]]
"""The addresses of a name. Blocks. Raises OSError."""


class Unreachable(Exception):
    """The server is not there, or does not answer. The message says so."""


def resolve(name: str) -> list[str]:
    """The addresses of a name, as this machine resolves it. Blocks. Raises OSError."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Dialler:
    """Connects to servers by name. Belongs to one event loop."""

    def __init__(self, hosts: Mapping[str, str], lookup: Resolve = resolve) -> None:
        """`hosts`: names that the operator maps to an address, which then may be any."""
        self._hosts = dict(hosts)
        self._lookup = lookup
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")

    async def dial(self, destination: Destination) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection. Raises Denied where the name leads to an address that is refused, Unreachable."""
        found = await self._addresses(destination)
        failure = "it has no address"
        for address in found[:_ADDRESSES_MAX]:
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    return await _connect(address, destination.port)
            except TimeoutError:
                failure = f"no answer within {CONNECT_WITHIN:g} s"
            except OSError as error:
                failure = error.strerror or str(error)
        raise Unreachable(f"{destination} cannot be reached: {failure}")

    async def _addresses(self, destination: Destination) -> list[str]:
        mapped = self._hosts.get(destination.host)
        if mapped is not None:
            return [mapped]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_WITHIN):
                found = await loop.run_in_executor(self._threads, self._lookup, destination.host)
        except TimeoutError:
            raise Unreachable(f"{destination.host} was not resolved within {RESOLVE_WITHIN:g} s") from None
        except (OSError, UnicodeError) as error:
            raise Unreachable(f"{destination.host} cannot be resolved: {error}") from None
        # One that is refused refuses all: a name that somebody points inside is not to be tried again and again.
        if not all(addresses.public(each) and not addresses.of_this_machine(each) for each in found):
            raise Denied(Denial(destination.host, destination.port, PRIVATE_ADDRESS))
        return found

    def close(self) -> None:
        """Resolves nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _connect(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
        return await asyncio.open_connection(sock=connection, limit=BUFFER)
    except BaseException:
        connection.close()
        raise
