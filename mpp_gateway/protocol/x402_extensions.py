"""Extensions of x402 version 2: what a 402 adds to its offers, and what a buyer says back.

`payment-identifier`: under one id a buyer pays once, however often it signs anew. `bazaar`: what
facilitators put into their catalogues (x402 "extensions/payment_identifier", "extensions/bazaar").
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.x402 import X402Payment

PAYMENT_IDENTIFIER = "payment-identifier"
BAZAAR = "bazaar"
PREFIX = "x402:"
"""No id of a challenge of ours begins so: theirs have no colon."""
_ID = re.compile(r"[A-Za-z0-9_-]{16,128}")
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_QUERIED = frozenset({"GET", "HEAD", "DELETE"})
_PARAMETER = re.compile(r":[A-Za-z_]\w*")

_ALLOWED = ("from", "asset", "spender", "amount")
_SPONSORED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "eip2612GasSponsoring": (
        "The facilitator takes an EIP-2612 permit for Permit2 and pays its gas.",
        (*_ALLOWED, "nonce", "deadline", "signature", "version"),
    ),
    "erc20ApprovalGasSponsoring": (
        "The facilitator sends a signed approval of Permit2 and pays its gas.",
        (*_ALLOWED, "signedTransaction", "version"),
    ),
}

IDENTIFIER_OFFER: Mapping[str, Any] = {
    "info": {"required": False},
    "schema": {
        "$schema": _DRAFT,
        "type": "object",
        "properties": {
            "required": {"type": "boolean"},
            "id": {
                "type": "string",
                "minLength": 16,
                "maxLength": 128,
                "pattern": "^[a-zA-Z0-9_-]+$",
            },
        },
        "required": ["required"],
    },
}


def offered(method: str, template: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Return the extensions of a 402 for a request with `method`.

    `template` is the path of its route, with `:name` and `*`; `parameters` are the values of the
    names.
    """
    return {
        PAYMENT_IDENTIFIER: IDENTIFIER_OFFER,
        BAZAAR: _listing(method, _named(template), parameters),
    }


def sponsored(names: Iterable[str]) -> dict[str, Any]:
    """Return the extensions of these names by which a facilitator pays for a buyer's allowance."""
    return {
        name: {
            "info": {"description": _SPONSORED[name][0], "version": "1"},
            "schema": {
                "$schema": _DRAFT,
                "type": "object",
                "properties": {member: {"type": "string"} for member in _SPONSORED[name][1]},
                "required": list(_SPONSORED[name][1]),
            },
        }
        for name in sorted(names)
        if name in _SPONSORED
    }


def identifier(payment: X402Payment, account: str) -> str | None:
    """Return what names the payment in the books by the buyer's id for it; None without one.

    It is the payer's own: nobody can spoil another one's id. Raises ParseError for an id that is
    none.
    """
    extension = payment.extensions.get(PAYMENT_IDENTIFIER)
    info = extension.get("info") if isinstance(extension, Mapping) else None
    text = info.get("id") if isinstance(info, Mapping) else None
    if text is None:
        return None
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ParseError("the payment identifier is not 16 to 128 letters, digits, `-` and `_`")
    return PREFIX + hashlib.sha256(f"{account} {text}".encode()).hexdigest()


def is_identifier(challenge_id: str | None) -> bool:
    """Tell whether the books name a payment by its buyer's id, not by a challenge of ours."""
    return challenge_id is not None and challenge_id.startswith(PREFIX)


def is_unchallenged(challenge_id: str | None) -> bool:
    """Tell whether a payment answers no challenge of ours, as every x402 one."""
    return challenge_id is None or is_identifier(challenge_id)


def _named(template: str) -> str:
    """Give a name to a `*`, which catalogues do not know."""
    return template.removesuffix("*") + ":rest" if template.endswith("*") else template


def _listing(method: str, template: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    called: dict[str, Any] = {"type": "http", "method": method}
    members: dict[str, Any] = {
        "type": {"type": "string", "const": "http"},
        "method": {"type": "string", "enum": [method]},
    }
    required = ["type", "method"]
    if method not in _QUERIED:
        called |= {"bodyType": "json", "body": {}}
        members |= {"bodyType": {"type": "string", "enum": ["json", "form-data", "text"]}}
        members |= {"body": {}}
        required += ["bodyType", "body"]
    listing: dict[str, Any] = {}
    if _PARAMETER.search(template):
        called["pathParams"] = dict(parameters)
        members["pathParams"] = {"type": "object"}
        listing["routeTemplate"] = template
    shape = {
        "type": "object",
        "properties": members,
        "required": required,
        "additionalProperties": False,
    }
    schema = {
        "$schema": _DRAFT,
        "type": "object",
        "properties": {"input": shape},
        "required": ["input"],
    }
    return {"info": {"input": called}, "schema": schema, **listing}
