"""The answer to a request that was refused: a 402 carries offers that can be paid, others none."""

import hashlib
import math
from typing import Any

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.ceilings import is_within
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.free_calls import free_fields
from mpp_gateway.gateway.page.showing import shown
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol import x402
from mpp_gateway.protocol.messages import Answer, Headers
from mpp_gateway.protocol.money import format_short
from mpp_gateway.protocol.negotiation import rank
from mpp_gateway.protocol.problems import PaymentRequired, Problem
from mpp_gateway.protocol.x402_extensions import is_unchallenged, offered, sponsored
from mpp_gateway.rails.base import Binding, Offer

RAIL_RETRY_S = 30
PRICES_MAX = 3
SKEW_S = 30
"""What a payment should live for beyond our own deadlines: clocks differ, and networks are slow."""


def refusal(exchange: Exchange, problem: Problem, now_s: int) -> tuple[Answer, Problem]:
    """Return the answer to a refused request, and the problem that it states.

    A 402 carries fresh offers, nothing else does.
    """
    if problem.status != PaymentRequired.status or exchange.binding is None:
        return problem_answer(problem), problem
    fields, members = _fresh_offers(exchange, exchange.binding, _code(problem), now_s)
    if not fields:  # a 402 that nobody can pay is forbidden by the draft, section 1.2
        problem = RailUnavailable("No payment can be taken now.", retry_after_s=RAIL_RETRY_S)
        return problem_answer(problem), problem
    told = (*fields, *_nothing_moved(exchange, problem), *free_fields(exchange))
    answer = problem_answer(problem, told, members=members)
    asked = [value for name, value in fields if name == "WWW-Authenticate"]
    return shown(exchange, answer, asked, problem, now_s), problem


def price_of(exchange: Exchange) -> str:
    """Return what the call costs, for people: each price once, the first few of many."""
    amounts = (offer.amount for offer in _made_now(exchange))
    prices = [f"{format_short(a.minor, a.asset.decimals)} {a.asset.name}" for a in amounts]
    return " or ".join([*dict.fromkeys(prices)][:PRICES_MAX]) or "money"


def _made_now(exchange: Exchange) -> list[Offer]:
    # What is withheld is no choice: a buyer who likes it best is shown the rest.
    made = [o for o in exchange.offers if not exchange.snapshot.rails[o.rail].withheld_for]
    return [offer for offer in made if is_within(exchange, offer)]


def _fresh_offers(
    exchange: Exchange, binding: Binding, code: str, now_s: int
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Return the offers that the client can take up as fields, the one it likes best first.

    Buyers of x402 version 1 read theirs in the body: the second value has its members. `code` is
    why there is no answer yet, in the words of x402.
    """
    offers = _made_now(exchange)
    forms: list[tuple[Offer, x402.Terms | None]] = [(offer, None) for offer in offers]
    # By use first: who can pay either way should pay for what it has.
    forms += [(o, terms) for o in offers if o.upto is not None and (terms := o.upto()) is not None]
    forms += [(offer, offer.x402) for offer in offers if offer.x402 is not None]
    # Last, for who cannot pay otherwise: it takes an allowance.
    forms += [(o, terms) for o in offers if o.permit2 and (terms := o.permit2()) is not None]
    pairs = [(x402.METHOD, t.scheme) if t else (o.method, o.intent) for o, t in forms]
    fields: list[tuple[str, str]] = []
    members: dict[str, Any] = {}
    sold: list[x402.Terms] = []
    for place in rank(pairs, exchange.head.get("accept-payment")):
        offer, terms = forms[place]
        if terms is not None:
            sold.append(terms)
            continue
        salt = hashlib.sha256(exchange.entropy + place.to_bytes(2)).digest()[:16]
        rail = exchange.snapshot.rails[offer.rail]
        fields.extend(rail.challenge(offer, binding, now_s, salt))
    if sold:
        headers, members = x402.required(
            _resource(exchange),
            sold,
            _payment_lives_s(exchange),
            code,
            offered(exchange.head.method, _template(exchange), exchange.match.params)
            | sponsored({name for terms in sold for name in terms.sponsored}),
        )
        fields.extend(headers)
    return fields, members


def _resource(exchange: Exchange) -> x402.Resource:
    route = exchange.route
    words = route.description or route.title or exchange.service.description or ""
    return x402.Resource(f"{exchange.snapshot.config.origin}{exchange.head.target}", words)


def _template(exchange: Exchange) -> str:
    mount = exchange.snapshot.mount_of(exchange.service)
    return f"{mount}{exchange.route.pattern}"


def _payment_lives_s(exchange: Exchange) -> int:
    """Return how long a payment must be good for, to be settled when the upstream has answered."""
    timeouts = exchange.route.timeouts
    return math.ceil(timeouts.connect_s + timeouts.first_byte_s + timeouts.settle_s) + SKEW_S


def _nothing_moved(exchange: Exchange, problem: Problem) -> Headers:
    """Return what an x402 buyer is told whose payment is refused: nothing of it moved, and why.

    Of one that was used before it would be a lie, on which a buyer's books would be wrong.
    """
    presented = exchange.presented
    if presented is None or not is_unchallenged(presented.challenge_id):
        return ()
    if presented.offer.x402 is None or exchange.state is not State.RELEASED:
        return ()
    payer = checksum(parse_address(presented.account.rpartition("/")[2]))
    reason = str(problem.extra.get("reason", "payment_refused"))
    return x402.response(presented.offer.x402.chain_id, payer, error=reason)


def _code(problem: Problem) -> str:
    return problem.slug.replace("-", "_")
