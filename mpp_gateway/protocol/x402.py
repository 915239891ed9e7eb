"""x402 over HTTP, versions 1 and 2: what a 402 offers, what buyers send, what they are told.

Wire form: x402 "transports-v1/http" and "transports-v2/http", scheme `exact` on EVM chains. Version
2 offers in a field, version 1 in the body; both stand in one 402, and each buyer reads its own.
"""

import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.protocol import base64url, jcs
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.problems import ParseError

METHOD = "x402"
"""How `Accept-Payment` names it, with the scheme in the intent's place."""
EXACT = "exact"
V1, V2 = 1, 2
PAYMENT_CHARS_MAX = 16 * 1024
OFFER_CHARS_MAX = 8_000
"""What a field of ours has at most: some clients and proxies take 8 KiB, and fail on more."""
CARRIERS = ("payment-signature", "x-payment")
"""Fields that carry a payment. Either may hold either version: Obol's buyer says version 2 in
`X-PAYMENT`."""

V1_CHAINS: Mapping[str, int] = {
    "abstract": 2741,
    "abstract-testnet": 11124,
    "avalanche": 43114,
    "avalanche-fuji": 43113,
    "base": 8453,
    "base-sepolia": 84532,
    "iotex": 4689,
    "peaq": 3338,
    "polygon": 137,
    "polygon-amoy": 80002,
    "sei": 1329,
    "sei-testnet": 1328,
}
"""Networks that the last client of version 1 knows. It refuses a whole body for one other name."""
_V1_NAMES: Mapping[int, str] = {chain_id: name for name, chain_id in V1_CHAINS.items()}
_CAIP2 = re.compile(r"eip155:([1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Terms:
    """What one offer asks for: a scheme, on a chain, of an amount of an asset, for somebody."""

    scheme: str
    chain_id: int
    asset: str
    """Contract address in EIP-55 form, as `pay_to`: some facilitators refuse any other."""
    amount_minor: int
    pay_to: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    sponsored: frozenset[str] = frozenset()
    """Extensions by which a facilitator pays for what a buyer has to allow first."""

    def entry(self, timeout_s: int) -> dict[str, Any]:
        """Return the member of a version 2 `accepts`; a payment must live for `timeout_s`."""
        return {
            "scheme": self.scheme,
            "network": f"eip155:{self.chain_id}",
            "asset": self.asset,
            "amount": str(self.amount_minor),
            "payTo": self.pay_to,
            "maxTimeoutSeconds": timeout_s,
            "extra": dict(self.extra),
        }

    def v1_entry(self, timeout_s: int, resource: "Resource") -> dict[str, Any] | None:
        """Return the member of a version 1 `accepts`, or None where that has no words for it."""
        network = _V1_NAMES.get(self.chain_id)
        if network is None or self.scheme != EXACT or "assetTransferMethod" in self.extra:
            return None
        return {
            "scheme": self.scheme,
            "network": network,
            "maxAmountRequired": str(self.amount_minor),
            "resource": resource.url,
            "description": resource.description,
            "mimeType": "",
            "payTo": self.pay_to,
            "maxTimeoutSeconds": timeout_s,
            "asset": self.asset,
            "extra": dict(self.extra),
        }


@dataclass(frozen=True, slots=True)
class Resource:
    """What is sold: an absolute URL, and words for people."""

    url: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class X402Payment:
    """What a buyer sent. `chain_id` is None for a network that is no EVM chain we can name."""

    version: int
    scheme: str
    chain_id: int | None
    proof: Mapping[str, Any] = field(repr=False)
    accepted: Mapping[str, Any] | None = None
    """The offer it takes up, in the buyer's words (version 2)."""
    extensions: Mapping[str, Any] = field(default_factory=dict)


def payments(head: RequestHead) -> tuple[str, ...]:
    """Return the payments that a request carries, unread."""
    return tuple(value for name in CARRIERS for value in head.get_all(name))


def read(text: str) -> X402Payment:
    """Return the payment that a field's value holds; raises ParseError for anything else."""
    if len(text) > PAYMENT_CHARS_MAX:
        raise ParseError(f"a payment is longer than {PAYMENT_CHARS_MAX} characters")
    document = jcs.decode_object(text.strip(" \t"))
    version = document.get("x402Version")
    if type(version) is not int:  # `true` is 1, elsewhere
        raise ParseError("`x402Version` is missing or not a whole number")
    if version == V1:
        return _payment(V1, document, document, None)
    if version == V2:
        accepted = document.get("accepted")
        if not isinstance(accepted, dict):
            raise ParseError("`accepted` is missing or not an object")
        return _payment(V2, document, accepted, accepted)
    raise ParseError("`x402Version` is neither 1 nor 2")


def _payment(
    version: int,
    document: Mapping[str, Any],
    named: Mapping[str, Any],
    accepted: Mapping[str, Any] | None,
) -> X402Payment:
    scheme, network = named.get("scheme"), named.get("network")
    proof, extensions = document.get("payload"), document.get("extensions")
    if not isinstance(scheme, str) or not isinstance(network, str):
        raise ParseError("the scheme or the network is missing or not text")
    if not isinstance(proof, dict):
        raise ParseError("`payload` is missing or not an object")
    return X402Payment(
        version,
        scheme,
        chain_of(network),
        proof,
        accepted,
        extensions if isinstance(extensions, dict) else {},
    )


def chain_of(network: str) -> int | None:
    """Return the EIP-155 id of a network by its name in either version; None for any other."""
    match = _CAIP2.fullmatch(network)
    return int(match[1]) if match is not None else V1_CHAINS.get(network)


def required(
    resource: Resource,
    offers: Sequence[Terms],
    timeout_s: int,
    error: str,
    extensions: Mapping[str, Any],
) -> tuple[Headers, dict[str, Any]]:
    """Return what a 402 says to buyers of both versions: a field, and members of the JSON body.

    `error` is a short code. The members are none where version 1 has no words for any offer.
    """
    asked = [offer.entry(timeout_s) for offer in offers]
    headers = (("PAYMENT-REQUIRED", _fitting(resource, asked, error, extensions)),)
    entries = [offer.v1_entry(timeout_s, resource) for offer in offers]
    accepts = [entry for entry in entries if entry is not None]
    if not accepts:
        return headers, {}
    return headers, {"x402Version": V1, "error": error, "accepts": accepts}


def _fitting(
    resource: Resource, entries: Sequence[Mapping[str, Any]], error: str, extras: Mapping[str, Any]
) -> str:
    """Return the first form that is short enough: what is least missed goes first.

    A path of some kilobytes would otherwise come back three times as long, in a field that its own
    sender cannot read. The offers that a buyer likes least go last.
    """
    path = resource.url.partition("?")[0]
    origin = "/".join(path.split("/")[:3]) + "/"
    forms = [(resource, extras), (resource, {}), (Resource(path), {}), (Resource(origin), {})]
    text = ""
    for count in range(len(entries), 0, -1):
        for named, extensions in forms:
            document: dict[str, Any] = {
                "x402Version": V2,
                "error": error,
                "resource": {"url": named.url, "description": named.description},
                "accepts": entries[:count],
            }
            if extensions:
                document["extensions"] = dict(extensions)
            text = _encoded(document)
            if len(text) <= OFFER_CHARS_MAX:
                return text
        forms = forms[-1:]
    return text


def response(
    chain_id: int,
    payer: str,
    transaction: str = "",
    error: str = "",
    moved_minor: int | None = None,
) -> Headers:
    """Return the fields that tell a buyer how its payment settled: well, or not for `error`.

    Both versions' stand there, each with its own name of the network: which one a buyer spoke is
    not remembered after a crash. `moved_minor` is what has moved of a payment by use.
    """
    document: dict[str, Any] = {
        "success": not error,
        "transaction": transaction,
        "network": f"eip155:{chain_id}",
        "payer": payer,
    }
    if moved_minor is not None:
        document["amount"] = str(moved_minor)
    if error:
        document["errorReason"] = error
    headers: Headers = (("PAYMENT-RESPONSE", _encoded(document)),)
    name = _V1_NAMES.get(chain_id)
    if name is None:
        return headers
    return (*headers, ("X-PAYMENT-RESPONSE", _encoded({**document, "network": name})))


def decoded(text: str) -> dict[str, Any]:
    """Return the object that one of these fields holds; raises ParseError."""
    value = jcs.loads(base64url.decode(text))
    if not isinstance(value, dict):
        raise ParseError("not a JSON object")
    return value


def _encoded(document: Mapping[str, Any]) -> str:
    # Padded base64 of the standard alphabet: what the official decoders take.
    data = json.dumps(document, separators=(",", ":")).encode("ascii")
    return binascii.b2a_base64(data, newline=False).decode("ascii")
