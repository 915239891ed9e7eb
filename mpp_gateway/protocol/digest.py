"""The digest that binds a challenge to a request body (RFC 9530, MPP core draft "Body Binding")."""

import hashlib
import hmac
import re
from base64 import b64encode

from mpp_gateway.protocol import base64url
from mpp_gateway.protocol.problems import ParseError

_SHA_256 = re.compile(r"sha-256=(:?)([A-Za-z0-9+/_-]{43}=?)\1")


def content_digest(body: bytes) -> str:
    """Return `sha-256=:…:`, the RFC 9530 form."""
    return f"sha-256=:{b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def matches(text: str, body: bytes) -> bool:
    """Say whether `text` is the digest of `body`, in the RFC's form or in the SDKs' (no colons)."""
    match = _SHA_256.fullmatch(text)
    if match is None:
        return False
    try:
        expected = base64url.decode(match[2])
    except ParseError:
        return False
    return hmac.compare_digest(expected, hashlib.sha256(body).digest())
