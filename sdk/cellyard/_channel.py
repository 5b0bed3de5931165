"""How channels are set up, the same for both flavours."""

from __future__ import annotations

import os
from typing import NamedTuple

import grpc

from cellyard.endpoint import TLS, Endpoint
from cellyard.errors import InvalidRequest

MIB = 1024 * 1024


class Asked(NamedTuple):
    """How to reach an endpoint, in gRPC's terms."""

    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, int], ...]
    metadata: tuple[tuple[str, str], ...]


def channel_settings(endpoint: Endpoint) -> Asked:
    """Credentials, options and metadata for an endpoint. Raises InvalidRequest for TLS files that cannot be read."""
    # Sent as plain metadata: gRPC's call credentials refuse channels without TLS, unix sockets among them.
    metadata = (("authorization", f"Bearer {endpoint.token}"),) if endpoint.token else ()
    credentials = None if endpoint.tls is None else _credentials(endpoint.tls)
    return Asked(credentials, _options(endpoint), metadata)


def _options(endpoint: Endpoint) -> tuple[tuple[str, int], ...]:
    return (
        ("grpc.max_receive_message_length", 64 * MIB),
        ("grpc.max_send_message_length", 64 * MIB),
        # A controller that froze is noticed within 30 s, by calls that wait as well as by held streams.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # Retrying is ours: only we know request ids and what was already seen of a stream.
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        # A connection of our own, so that a fresh channel never inherits one that is broken or from before a fork.
        ("grpc.use_local_subchannel_pool", 1),
        # http_proxy is for the world outside.
        ("grpc.enable_http_proxy", 0 if endpoint.loopback else 1),
    )


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    if (tls.cert is None) != (tls.key is None):
        raise InvalidRequest("TLS: a client proves itself with cert and key, both or none")
    ca, key, cert = _read(tls.ca), _read(tls.key), _read(tls.cert)
    _check(tls, ca)
    return grpc.ssl_channel_credentials(ca, key, cert)


def _check(tls: TLS, ca: bytes | None) -> None:
    """gRPC tells at the first call that something is wrong with the files, and not what."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError):
        raise InvalidRequest(f"TLS: ca={os.fspath(tls.ca or '')} has no certificate in PEM") from None
    if tls.cert is None or tls.key is None:
        return
    try:
        context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")  # else it would ask at the terminal
    except (ssl.SSLError, ValueError) as bad:
        reason = getattr(bad, "reason", None) or str(bad)
        raise InvalidRequest(
            f"TLS: cert={os.fspath(tls.cert)} and key={os.fspath(tls.key)} are no certificate and its key without a "
            f"password, both in PEM ({reason})"
        ) from None


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InvalidRequest(f"TLS: {os.fspath(path)} cannot be read: {error.strerror}") from error
