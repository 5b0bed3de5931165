"""The certificates of TCP listeners: read and judged before anything is bound, because gRPC says nothing at start.

A handshake with a key of another certificate, or with an expired one, fails at the first client, which learns only that
it failed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from cellyard_controller.config import Config


class BadCertificate(Exception):
    """A file that cannot serve, with the name of its setting and what to do."""


def credentials(config: Config) -> grpc.ServerCredentials | None:
    """What TCP listeners prove themselves with, and whom they ask for a certificate; None for no TLS.

    Raises BadCertificate.
    """
    cert, key, client_ca = config.tls_cert, config.tls_key, config.tls_client_ca
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        what = "--tls-cert and --tls-key belong together"
        raise BadCertificate(f"{what}, and --tls-client-ca needs both" if client_ca else what)
    chain = _certificates(cert, "tls_cert")
    _in_force(chain[0], cert, "tls_cert")
    _belong_together(chain[0], cert, key)
    ca = None
    if client_ca is not None:
        for each in _certificates(client_ca, "tls_client_ca"):
            _may_sign(each, client_ca)
            _in_force(each, client_ca, "tls_client_ca")
        ca = client_ca.read_bytes()
    pair = (key.read_bytes(), cert.read_bytes())
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


def _certificates(path: Path, setting: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path, setting))
    except ValueError:
        raise BadCertificate(
            f"{setting}: {path} has no certificate in PEM: it begins with -----BEGIN CERTIFICATE-----"
        ) from None


def _belong_together(certificate: x509.Certificate, cert: Path, key: Path) -> None:
    content = _read(key, "tls_key")
    try:
        private = serialization.load_pem_private_key(content, None)
    except TypeError:
        raise BadCertificate(
            f"tls_key: {key} is encrypted with a password: give a key without one, readable by this user alone"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadCertificate(f"tls_key: {key} has no private key in PEM that can be used") from None
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    of_key = private.public_key().public_bytes(encoding, form)
    if of_key != certificate.public_key().public_bytes(encoding, form):
        raise BadCertificate(
            f"tls_key: {key} is not the key of the certificate in {cert} (tls_cert), whose own comes first in it: "
            "give the two that were made together"
        )


def _in_force(certificate: x509.Certificate, path: Path, setting: str) -> None:
    now = datetime.now(UTC)
    if now >= certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.isoformat()
        raise BadCertificate(f"{setting}: the certificate in {path} expired at {until}: renew it")
    if now < certificate.not_valid_before_utc:
        since = certificate.not_valid_before_utc.isoformat()
        raise BadCertificate(f"{setting}: the certificate in {path} is valid from {since} on: check the clock")


def _may_sign(certificate: x509.Certificate, path: Path) -> None:
    try:
        ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        ca = False
    if not ca:
        raise BadCertificate(
            f"tls_client_ca: {path} has a certificate that may sign no others: give the one of the authority that "
            "signs the clients' certificates"
        )


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as failed:
        raise BadCertificate(f"{setting}: {path} cannot be read: {failed.strerror}") from None
