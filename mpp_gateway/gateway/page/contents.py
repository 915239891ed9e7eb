"""What the page says of one request: the goods, the ways to pay, and what a wallet has to sign."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mpp_gateway.config.methods import EvmMethod
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.page.chains import CHAINS, chain_name
from mpp_gateway.gateway.page.lines import Line, lines_of
from mpp_gateway.gateway.page.parts import SCRIPT, STYLE, TEMPLATE
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.eip3009 import challenge_hashes
from mpp_gateway.protocol.money import format_short
from mpp_gateway.protocol.problems import PaymentRequired, Problem
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import Offer
from mpp_gateway.rails.evm.payer import LIFETIME_MAX_S, LIFETIME_S
from mpp_gateway.rails.payment_scheme import PAYMENT_AUTHORIZATION

SHOWN_MAX = 12
"""So many ways to pay are listed; with more the page would outgrow its 60 kB."""
TEXT_CHARS_MAX = 2000
TARGET_CHARS_MAX = 4000
AUTHORIZATION = "authorization"
FOREVER = "9999-12-31T23:59:59Z"
ANY_NOTE = "An MPP client that knows one of these ways can pay."
_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to pay for the call: an offer, with the challenge that was made for it."""

    offer: Offer
    challenge: Challenge
    method: EvmMethod | None
    """Set where a wallet in a browser can pay it."""

    @property
    def price(self) -> str:
        """The price as a number, for people."""
        amount = self.offer.amount
        return format_short(amount.minor, amount.asset.decimals)

    @property
    def unit(self) -> str:
        """What the price is counted in."""
        return self.offer.amount.asset.name

    @property
    def where(self) -> str:
        """On which network it is paid, or by which method."""
        details = self.offer.request.get("methodDetails")
        chain_id = details.get("chainId") if isinstance(details, dict) else None
        if self.offer.method == EvmMethod.kind and isinstance(chain_id, int):
            return f"on {chain_name(chain_id)}"
        return f"with {self.offer.method.capitalize()}"


def ways_to_pay(exchange: Exchange, challenges: Sequence[Challenge]) -> list[Way]:
    """Return the ways to pay, in the order in which the answer names them."""
    ways = []
    for challenge in challenges[:SHOWN_MAX]:
        asked = (challenge.method, challenge.intent, challenge.request)
        for offer in exchange.offers:
            if (offer.method, offer.intent, offer.request_encoded) == asked:
                ways.append(Way(offer, challenge, _wallet_method(exchange, offer)))
                break
    return ways


def _wallet_method(exchange: Exchange, offer: Offer) -> EvmMethod | None:
    """Return the settings of a method that takes signed authorizations from a wallet."""
    method = exchange.snapshot.config.methods.get(offer.rail)
    if not isinstance(method, EvmMethod) or offer.method != EvmMethod.kind:
        return None
    details = offer.request.get("methodDetails")
    types = details.get("credentialTypes", ()) if isinstance(details, dict) else ()
    return method if AUTHORIZATION in types else None


def page_of(exchange: Exchange, ways: Sequence[Way], problem: Problem, now_s: int) -> bytes:
    """Return the whole page. What comes from the request or the configuration is escaped."""
    service, route, head = exchange.service, exchange.route, exchange.head
    title = route.title or service.title or service.id
    about = route.description or (service.description if route.title is None else None) or ""
    first = ways[0]
    return TEMPLATE.substitute(
        style=STYLE,
        script=SCRIPT,
        title=_text(title),
        about=_element("p", "about", about),
        seller=_text(exchange.snapshot.config.title or exchange.snapshot.config.realm),
        call=_text(f"{head.method} {head.target}", TARGET_CHARS_MAX),
        price=_text(first.price),
        unit=_text(first.unit),
        problem=_problem(problem),
        offers="".join(_offer(way, place) for place, way in enumerate(ways)),
        many="" if len(ways) > 1 or first.method is None else " hidden",
        lines=_lines(exchange, ways),
        data=_data(exchange, ways, now_s),
    ).encode("utf-8", "replace")


def _text(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    return escape(text if len(text) <= chars_max else f"{text[:chars_max]} …")


def _element(name: str, css_class: str, text: str) -> str:
    return f'<{name} class="{css_class}">{_text(text)}</{name}>' if text else ""


def _problem(problem: Problem) -> str:
    """Return what went wrong before this page, where it answers to a payment."""
    if isinstance(problem, PaymentRequired):
        return ""
    said = " ".join(text for text in (problem.detail or problem.title, problem.hint) if text)
    return f'<p class="problem" role="alert">{_text(said)}</p>'


def _offer(way: Way, place: int) -> str:
    words = (
        f'<span class="amount">{_text(way.price)} {_text(way.unit)}</span>'
        f' <span class="where">{_text(way.where)}</span>'
    )
    if way.method is None:
        return f'<li>{words} <span class="tag">with an MPP client</span></li>'
    return (
        f'<li><label><input type="radio" name="offer" value="{place}"> {words}'
        ' <span class="tag">with a wallet</span></label></li>'
    )


def _lines(exchange: Exchange, ways: Sequence[Way]) -> str:
    """Return what to type into a terminal, each with what else to know; or who else can pay."""
    lines = lines_of(exchange, [way.offer for way in ways])
    by_offer = {(way.offer.method, way.offer.request_encoded): way for way in ways}
    shown = []
    for line in lines:
        way = by_offer[line.offer.method, line.offer.request_encoded]
        named = f"{way.price} {way.unit} {way.where}" if len(lines) > 1 else ""
        shown.append(_element("h3", "by", named) + _line(line))
    return "".join(shown) or _element("p", "meta", ANY_NOTE)


def _line(line: Line) -> str:
    return (
        '<div class="line"><pre tabindex="0" aria-label="Command"><code class="command">'
        f'{escape(line.command)}</code></pre> <button class="copy" type="button" hidden>Copy'
        f"</button></div>{_element('p', 'meta', line.note)}"
    )


def _data(exchange: Exchange, ways: Sequence[Way], now_s: int) -> str:
    """Return what the script works with, as JSON that cannot end its element."""
    payable = exchange.head.method == "GET"
    members = {
        "now": now_s,
        "isPaidFirst": exchange.route.settle == "before",
        "lifetime": LIFETIME_S,
        "lifetimeMax": LIFETIME_MAX_S,
        "method": exchange.head.method,
        "offers": {
            str(place): _wallet_terms(way, way.method)
            for place, way in enumerate(ways)
            if payable and way.method is not None
        },
    }
    return json.dumps(members, separators=(",", ":")).translate(_JSON_ESCAPES)


def _wallet_terms(way: Way, method: EvmMethod) -> dict[str, Any]:
    challenge, request = way.challenge, way.offer.request
    chain = CHAINS.get(method.chain_id)
    names = ("id", "realm", "method", "intent", "request", "expires", "digest", "description")
    echo = {name: getattr(challenge, name) for name in (*names, "opaque", "header")}
    nonce, _ = challenge_hashes(challenge.id, challenge.realm)
    return {
        "label": f"{way.price} {way.unit}",
        "unit": way.unit,
        "decimals": way.offer.amount.asset.decimals,
        "network": chain_name(method.chain_id),
        "field": PAYMENT_AUTHORIZATION if challenge.header else "Authorization",
        "echo": {name: value for name, value in echo.items() if value},
        "expires": parse_rfc3339(challenge.expires or FOREVER),
        "amount": request["amount"],
        "recipient": request["recipient"],
        "nonce": f"0x{nonce.hex()}",
        "domain": {
            "name": method.token.name,
            "version": method.token.version,
            "chainId": method.chain_id,
            "verifyingContract": request["currency"],
        },
        "chain": chain
        and {
            "chainId": hex(method.chain_id),
            "chainName": chain.name,
            "nativeCurrency": {"name": chain.coin, "symbol": chain.coin, "decimals": 18},
            "rpcUrls": [chain.rpc_url],
            "blockExplorerUrls": [chain.explorer_url],
        },
    }
