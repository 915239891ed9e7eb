"""What mitmproxy's own tools show of a payment: a comment on each flow, a view of each message."""

import json
import re
from collections.abc import Sequence
from typing import Any

from mitmproxy import contentviews, http
from mitmproxy.addonmanager import Loader

from mpp_gateway.engine.fields import text_of
from mpp_gateway.engine.gate import gate_of
from mpp_gateway.gateway.answers import PROBLEM_JSON
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.protocol import x402
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, format_short
from mpp_gateway.protocol.problems import ParseError, Problem
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.x402_extensions import is_unchallenged
from mpp_gateway.rails.base import Offer

SEPARATOR = " · "
X402_PARTS = {
    "x402 offers": ("payment-required",),
    "x402 payment": x402.CARRIERS,
    "x402 settlement": ("payment-response",),
}
"""What its fields hold, by name; the settlement of version 1 says the same once more."""


class Inspection:
    """Last of the gateway's addons; it decides nothing."""

    def load(self, _: Loader) -> None:
        """Offer the content view."""
        contentviews.add(PaymentView())

    async def response(self, flow: http.HTTPFlow) -> None:
        """Say what became of the call."""
        self._comment(flow)

    async def error(self, flow: http.HTTPFlow) -> None:
        """Say what became of the call."""
        self._comment(flow)

    @staticmethod
    def _comment(flow: http.HTTPFlow) -> None:
        gate = gate_of(flow)
        if gate is None:
            return
        if isinstance(gate.exchange, Exchange):
            status = flow.response.status_code if flow.response else 0
            flow.comment = comment_on(gate.exchange, status)
        elif flow.response:
            flow.comment = comment_on_own(flow.response)


def comment_on(exchange: Exchange, status: int) -> str:
    """Return service, route, price, payment method and state in one line.

    Who has paid is shown the price that was paid; else all that were asked for.
    """
    route = exchange.route
    parts = [exchange.service.id, route.key]
    if route.free:
        parts.append("free")
    else:
        presented = exchange.presented
        offers = (presented.offer,) if presented else exchange.offers
        parts += _prices(offers)
        if presented and is_unchallenged(presented.challenge_id):
            parts.append("x402")
        parts.append(_state(exchange, status))
    return SEPARATOR.join(part for part in parts if part)


def comment_on_own(response: http.Response) -> str:
    """Say what the gateway answered to a request that matched no route."""
    if response.status_code == 204:
        return "preflight"
    if response.status_code < 400:
        return "document"
    return SEPARATOR.join(("refused", _slug(response) or str(response.status_code)))


def _slug(response: http.Response) -> str:
    """Return the slug of a problem document, or nothing: HEAD gets none, a fault may have none."""
    if response.headers.get("content-type") != PROBLEM_JSON:
        return ""
    try:
        kind = json.loads(response.content or b"")["type"]
    except (ValueError, KeyError, TypeError):
        return ""
    return re.split("[/:]", str(kind))[-1]


def _state(exchange: Exchange, status: int) -> str:
    if exchange.state is not None:
        return str(exchange.state)
    if exchange.is_given:
        return "free call"
    return "payment required" if status == 402 else "refused"


def _prices(offers: Sequence[Offer]) -> list[str]:
    """Return the price and who takes it; where prices differ, each beside its own method."""
    asked = list(dict.fromkeys((price_text(offer.amount), offer.rail) for offer in offers))
    prices = list(dict.fromkeys(price for price, _ in asked))
    if len(prices) > 1:
        return [" or ".join(f"{price} ({rail})" for price, rail in asked)]
    return [*prices, " ".join(rail for _, rail in asked)]


def price_text(amount: Amount) -> str:
    """Return an amount without needless zeros; cents stay."""
    return format_short(amount.minor, amount.asset.decimals)


class PaymentView(contentviews.Contentview):
    """Challenges, credential and receipt of the shown message, decoded; its body below."""

    name = "Payment"
    syntax_highlight = "yaml"

    def prettify(self, data: bytes, metadata: contentviews.Metadata) -> str:
        """Return the payment fields of the message as indented text."""
        parts = [
            f"{title}:\n{_indented(value)}" for title, value in payment_parts(metadata.http_message)
        ]
        if not parts:
            raise ValueError("no payment fields")
        body = data.decode("utf-8", "replace")
        return "\n\n".join([*parts, body] if body else parts)

    def render_priority(self, data: bytes, metadata: contentviews.Metadata) -> float:
        """Come first for a message that has something to show."""
        return 3 if payment_parts(metadata.http_message) else -1


def payment_parts(message: http.Message | None) -> list[tuple[str, Any]]:
    """Return what a message says about money, decoded, in the order of a payment."""
    if message is None:
        return []
    head = RequestHead("", "", text_of(message.headers))
    parts: list[tuple[str, Any]] = []
    fields = head.get_all("www-authenticate")
    if fields:
        parts += _attempt("challenge", lambda: [_challenge(c) for c in Challenge.parse_all(fields)])
    values = (*head.get_all("authorization"), *head.get_all("payment-authorization"))
    if values:
        parts += _attempt(
            "credential", lambda: [_credential(token) for token in payment_tokens(values)]
        )
    receipt = head.get("payment-receipt")
    if receipt is not None:
        parts += _attempt("receipt", lambda: [_receipt(receipt)])
    for title, names in X402_PARTS.items():
        for text in (value for name in names for value in head.get_all(name)[:1]):
            parts += _attempt(title, lambda text=text: [x402.decoded(text)])
    return parts


def _attempt(title: str, decode: Any) -> list[tuple[str, Any]]:
    try:
        return [(title, value) for value in decode()]
    except (ParseError, Problem) as error:
        return [(title, f"cannot be read: {error}")]


def _challenge(challenge: Challenge) -> dict[str, Any]:
    shown = {
        "id": challenge.id,
        "realm": challenge.realm,
        "method": challenge.method,
        "intent": challenge.intent,
        "request": challenge.request_object,
        "expires": challenge.expires,
        "digest": challenge.digest,
        "opaque": challenge.opaque_object or None,
        "description": challenge.description,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _credential(token: str) -> dict[str, Any]:
    credential = Credential.parse(token)
    return {
        "challenge": _challenge(credential.challenge),
        "payload": dict(credential.payload),
        "source": credential.source,
    }


def _receipt(field: str) -> dict[str, Any]:
    receipt = Receipt.parse(field)
    return {
        "status": receipt.status,
        "method": receipt.method,
        "reference": receipt.reference,
        "timestamp": receipt.timestamp,
        **receipt.extra,
    }


def _indented(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, default=str)
    return "\n".join(f"  {line}" for line in text.split("\n"))
