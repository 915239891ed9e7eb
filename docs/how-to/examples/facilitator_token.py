"""An `auth_hook`: a token for each request, signed with an Ed25519 key of the facilitator's."""

import base64
import json
import os
import secrets
import time

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpp_gateway.rails.evm.facilitator_client import FacilitatorRequest

LIFETIME_S = 120


def sign(request: FacilitatorRequest) -> dict[str, str]:
    """Return the fields of one request: a JWT that names its method, host and path."""
    # 64 bytes, of which the first 32 are the private key.
    secret = base64.b64decode(os.environ["FACILITATOR_KEY_SECRET"])
    key = Ed25519PrivateKey.from_private_bytes(secret[:32])
    key_id, now_s = os.environ["FACILITATOR_KEY_ID"], int(time.time())
    head = {"alg": "EdDSA", "kid": key_id, "typ": "JWT", "nonce": secrets.token_hex(16)}
    claims = {
        "sub": key_id,
        "iss": "cdp",
        "aud": ["cdp_service"],
        "nbf": now_s,
        "exp": now_s + LIFETIME_S,
        "uris": [f"{request.method} {request.host}{request.path}"],
    }
    signed = f"{_encode(head)}.{_encode(claims)}"
    signature = _base64url(key.sign(signed.encode()))
    return {"Authorization": f"Bearer {signed}.{signature}"}


def _encode(members: dict) -> str:
    return _base64url(json.dumps(members, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
