"""The `auth_hook` of the how-to, as an operator would name it."""

import base64
import json

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpp_gateway.config.hooks import find_function
from mpp_gateway.rails.evm.facilitator_client import FacilitatorRequest
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "facilitators.md"
EXAMPLES = PAGE.parent / "examples"


def test_the_page_shows_the_file():
    (shown,) = blocks(PAGE, "python")

    assert shown.text == (EXAMPLES / "facilitator_token.py").read_text()


def test_the_example_signs_for_one_request(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes_raw()
    monkeypatch.setenv("FACILITATOR_KEY_ID", "key-1")
    monkeypatch.setenv(
        "FACILITATOR_KEY_SECRET", base64.b64encode(bytes(range(32)) + public).decode()
    )

    fields = find_function("facilitator_token:sign")(
        FacilitatorRequest("POST", "api.facilitator.example", "/x402/verify")
    )

    signed, _, signature = fields["Authorization"].removeprefix("Bearer ").rpartition(".")
    key.public_key().verify(decoded(signature), signed.encode())
    head, claims = (json.loads(decoded(part)) for part in signed.split("."))
    assert (head["alg"], head["kid"], claims["sub"]) == ("EdDSA", "key-1", "key-1")
    assert claims["uris"] == ["POST api.facilitator.example/x402/verify"]
    assert claims["exp"] - claims["nbf"] == 120


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
