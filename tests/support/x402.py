"""An x402 buyer of our own: reads a 402 as one of the dialects does, signs, and says it again."""

import base64
import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.x402 import V1_CHAINS
from tests.support.evm import now
from tests.support.paid import Paid, Response, chain, paid_gateway

BASE_SEPOLIA = 84532
"""A chain that version 1 has a name for."""


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def decoded(text: str) -> Any:
    return json.loads(base64.b64decode(text, validate=True))


def signed(entry: dict[str, Any], key: bytes, **changes: Any) -> Authorization:
    """Return the authorization that takes up a member of `accepts`, with members changed."""
    network = entry["network"]
    chain_id = V1_CHAINS.get(network) or int(network.removeprefix("eip155:"))
    extra = entry["extra"]
    domain = changes.pop("domain", None) or Eip712Domain(
        extra["name"], extra["version"], chain_id, parse_address(entry["asset"])
    )
    unsigned = Authorization(
        sender=address_of(key),
        recipient=parse_address(entry["payTo"]),
        value=int(entry.get("amount") or entry["maxAmountRequired"]),
        valid_after=now() - 600,
        valid_before=now() + entry["maxTimeoutSeconds"],
        nonce=secrets.token_bytes(32),
        signature=b"",
    )
    unsigned = replace(unsigned, **changes)
    return replace(unsigned, signature=sign(eip3009.digest(unsigned, domain), key))


def proof(authorization: Authorization) -> dict[str, Any]:
    members = authorization.to_payload()
    del members["type"]
    signature = members.pop("signature")
    members["from"] = checksum(authorization.sender)
    members["to"] = checksum(authorization.recipient)
    return {"signature": signature, "authorization": members}


def as_x402(credential: Credential) -> str:
    """Return what an MPP credential is to x402: the same signature is good in each form."""
    members = dict(credential.payload)
    made = {"signature": members.pop("signature"), "authorization": members}
    request = credential.challenge.request_object
    accepted = {
        "scheme": "exact",
        "network": f"eip155:{request['methodDetails']['chainId']}",
        "asset": request["currency"],
        "amount": request["amount"],
        "payTo": request["recipient"],
    }
    return encoded({"x402Version": 2, "payload": made, "accepted": accepted})


@dataclass
class X402Buyer:
    """Buys of a gateway whose `evm` method takes x402."""

    paid: Paid

    def required(self, target: str = "/api/paid", **options: Any) -> dict[str, Any]:
        """Return what a buyer of version 2 reads."""
        status, headers, body = self.paid.ask(target, **options)
        assert status == 402, (status, body)
        found: dict[str, Any] = decoded(headers["payment-required"])
        return found

    def v1_required(self, target: str = "/api/paid", **options: Any) -> dict[str, Any]:
        """Return what a buyer of version 1 reads: the body."""
        status, _, body = self.paid.ask(target, **options)
        assert status == 402, (status, body)
        found: dict[str, Any] = json.loads(body)
        return found

    def v2(self, target: str = "/api/paid", key: bytes | None = None, **changes: Any) -> str:
        """Return a payment of version 2 that is good for `target`, or changed in its members."""
        document = self.required(target)
        (entry,) = document["accepts"]
        made = proof(signed(entry, key or self.paid.key, **changes))
        return encoded(
            {
                "x402Version": 2,
                "payload": made,
                "accepted": entry,
                "resource": document["resource"],
            }
        )

    def v1(self, target: str = "/api/paid", **changes: Any) -> str:
        """Return a payment of version 1 that is good for `target`."""
        (entry,) = self.v1_required(target)["accepts"]
        return encoded(
            {
                "x402Version": 1,
                "scheme": entry["scheme"],
                "network": entry["network"],
                "payload": proof(signed(entry, self.paid.key, **changes)),
            }
        )

    def send(
        self, payment: str, target: str = "/api/paid", *fields: str, **options: Any
    ) -> Response:
        return self.paid.ask(target, f"PAYMENT-SIGNATURE: {payment}", *fields, **options)

    def send_v1(
        self, payment: str, target: str = "/api/paid", *fields: str, **options: Any
    ) -> Response:
        return self.paid.ask(target, f"X-PAYMENT: {payment}", *fields, **options)


@contextmanager
def x402_gateway(tmp_path: Path, **options: Any):
    """Run a gateway as `paid_gateway` does, whose method takes x402 too."""
    thread = options.pop("thread", None) or chain(BASE_SEPOLIA)
    options = {"submit_more": ', max_fee_gwei: "100"'} | options  # Base Sepolia asks for less
    more = ", x402: true" + options.pop("method_more", "")
    with paid_gateway(tmp_path, method_more=more, thread=thread, **options) as paid:
        yield X402Buyer(paid)


def settled(response: Response, field: str = "payment-response") -> dict[str, Any]:
    """Return what the answer says about the settlement."""
    found: dict[str, Any] = decoded(response[1][field])
    return found
