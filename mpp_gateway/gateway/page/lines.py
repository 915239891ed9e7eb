"""The lines of the page for a terminal: `mpp-gateway pay`, for each way that it can pay."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mpp_gateway.config.methods import EvmMethod
from mpp_gateway.config.stripe import StripeMethod
from mpp_gateway.config.tempo import TempoMethod
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import format_short
from mpp_gateway.protocol.networks import known_token
from mpp_gateway.protocol.tempo_networks import TEMPO_NETWORKS
from mpp_gateway.rails.base import Offer

URL_CHARS_MAX = 4000
"""A longer address stands in one line only, or the page would outgrow its 60 kB."""
KEY_NOTE = "MPP_PRIVATE_KEY holds the key that pays."
FEE_NOTE = " The fee of the network comes on top."
NODE_NOTE = " Add --rpc-url with a node of chain {}: this command knows none that has the token."
SPT_NOTE = "MPP_SPT holds a shared payment token for the seller {}, by your wallet or agent."
BODY_NOTE = " Put the request body in a file named body: this page cannot see it."
AUTHORIZATION, PULL = "authorization", "pull"
"""What offers name that the command can pay. From the rails, the words would load all of them."""
BODILESS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


@dataclass(frozen=True, slots=True)
class Line:
    """One command, and what else its user has to know."""

    offer: Offer
    command: str
    note: str


def lines_of(exchange: Exchange, offers: Sequence[Offer]) -> list[Line]:
    """Return a line for each of `offers` that the command can pay, and tell from the others."""
    payable: dict[tuple[str, object], tuple[Offer, str]] = {}
    for offer in offers:
        note = _note(offer)
        if note is not None:
            payable.setdefault((offer.method, _details(offer).get("chainId")), (offer, note))
    methods = [method for method, _ in payable]
    head, url = exchange.head, url_of(exchange)
    has_body = head.method not in BODILESS and head.get("content-length") != "0"
    lines = []
    for (method, chain_id), (offer, note) in payable.items():
        words = ["mpp-gateway", "pay"]
        # A wallet in the browser pays by `evm` too: that line is as short as can be.
        if len(methods) > 1 or method != EvmMethod.kind:
            words += ["--method", method]
        if methods.count(method) > 1:
            words += ["--chain", str(chain_id)]
        words += ["--max", format_short(offer.amount.minor, offer.amount.asset.decimals)]
        words += [] if head.method == "GET" else ["--request", head.method]
        words += ["--data", "@body"] if has_body else []
        line = " ".join(shlex.quote(word) for word in (*words, url))
        lines.append(Line(offer, line, note + (BODY_NOTE if has_body else "")))
    return lines if len(url) <= URL_CHARS_MAX else lines[:1]


def url_of(exchange: Exchange) -> str:
    """Return the address that the client asked for, as far as it can be told from here."""
    config, head = exchange.snapshot.config, exchange.head
    if config.public_url:
        public = urlsplit(config.public_url)
        return f"{public.scheme}://{public.netloc}{head.target}"
    is_secure = config.tls is not None or bool(config.trusted_proxies)
    return f"{'https' if is_secure else 'http'}://{_host(head, config.realm)}{head.target}"


def _host(head: RequestHead, realm: str) -> str:
    host = head.get("host") or ""
    return host if _HOST.match(host) else realm


def _details(offer: Offer) -> Mapping[str, Any]:
    details = offer.request.get("methodDetails")
    return details if isinstance(details, Mapping) else {}


def _note(offer: Offer) -> str | None:
    """Return what an offer's line needs beside it; None where the command cannot pay it."""
    details = _details(offer)
    chain_id = details.get("chainId")
    if offer.method == StripeMethod.kind:
        return SPT_NOTE.format(details["networkId"])
    if offer.method == EvmMethod.kind and AUTHORIZATION in details.get("credentialTypes", ()):
        token = parse_address(offer.request["currency"])
        is_known = known_token(int(details["chainId"]), token) is not None
        return KEY_NOTE + ("" if is_known else NODE_NOTE.format(chain_id))
    if offer.method == TempoMethod.kind and PULL in details.get("supportedModes", (PULL,)):
        has_fee = offer.amount.minor and not details.get("feePayer")
        is_known = chain_id in TEMPO_NETWORKS
        fee = FEE_NOTE if has_fee else ""
        return KEY_NOTE + fee + ("" if is_known else NODE_NOTE.format(chain_id))
    return None
