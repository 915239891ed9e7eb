"""Whether the listener's certificate and key can be shown to clients: read, and compared."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mpp_gateway.config.model import Tls

type Flaw = tuple[Literal["cert", "key"], str]
"""Which of the two files is wrong, and what is expected of it."""


def flaws(tls: Tls, now: datetime) -> Iterator[Flaw]:
    """Find why clients could not be served with these files at `now`.

    mitmproxy would find most of it too: at start, with the port open, and in words of its own.
    """
    cert_pem, key_pem = _read(tls.cert), _read(tls.key)
    key = None if isinstance(key_pem, str) else _key(key_pem)
    if isinstance(key_pem, str):
        yield "key", key_pem
    elif key is None:
        yield "key", "a private key in PEM, without a passphrase"
    if isinstance(cert_pem, str):
        yield "cert", cert_pem
        return
    if _certificate(cert_pem) is None:
        yield "cert", "a certificate in PEM, followed by the rest of its chain"
        return
    # In this order they are shown: a certificate in the key's file would be the one.
    shown = _certificate((key_pem if isinstance(key_pem, bytes) else b"") + b"\n" + cert_pem)
    assert shown is not None
    yield from _age(shown, now)
    if key is not None and key.public_key() != shown.public_key():
        yield "key", "the private key of the certificate in `tls.cert`: copy or renew both together"


def _read(path: Path) -> bytes | str:
    """Return the file's content, or what is expected of the file instead."""
    if not path.is_file():
        return "a file that exists"
    try:
        return path.read_bytes()
    except OSError as error:
        return f"a file that can be read ({error.strerror})"


def _key(pem: bytes) -> PrivateKeyTypes | None:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _certificate(pem: bytes) -> x509.Certificate | None:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return certificate


def _age(certificate: x509.Certificate, now: datetime) -> Iterator[Flaw]:
    if certificate.not_valid_after_utc < now:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        yield "cert", f"a certificate that is valid now; this one ended on {ended}: renew it"
    elif now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        yield "cert", f"a certificate that is valid now; this one begins on {begins}"
