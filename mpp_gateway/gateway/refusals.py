"""The answer to a request that was refused: a 402 carries offers that can be paid, others none."""

import hashlib

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.ceilings import is_within
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.free_calls import free_fields
from mpp_gateway.gateway.page.showing import shown
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.money import format_short
from mpp_gateway.protocol.negotiation import rank
from mpp_gateway.protocol.problems import PaymentRequired, Problem
from mpp_gateway.rails.base import Binding, Offer

RAIL_RETRY_S = 30
PRICES_MAX = 3


def refusal(exchange: Exchange, problem: Problem, now_s: int) -> tuple[Answer, Problem]:
    """Return the answer to a refused request, and the problem that it states.

    A 402 carries fresh offers, nothing else does.
    """
    challenges: list[tuple[str, str]] = []
    if problem.status == PaymentRequired.status and exchange.binding is not None:
        challenges = _challenges(exchange, exchange.binding, now_s)
        if not challenges:  # a 402 that nobody can pay is forbidden by the draft, section 1.2
            problem = RailUnavailable("No payment can be taken now.", retry_after_s=RAIL_RETRY_S)
    answer = problem_answer(problem, (*challenges, *free_fields(exchange)))
    if challenges:
        asked = [value for name, value in challenges if name == "WWW-Authenticate"]
        answer = shown(exchange, answer, asked, problem, now_s)
    return answer, problem


def price_of(exchange: Exchange) -> str:
    """Return what the call costs, for people: each price once, the first few of many."""
    amounts = (offer.amount for offer in _made_now(exchange))
    prices = [f"{format_short(a.minor, a.asset.decimals)} {a.asset.name}" for a in amounts]
    return " or ".join([*dict.fromkeys(prices)][:PRICES_MAX]) or "money"


def _made_now(exchange: Exchange) -> list[Offer]:
    # What is withheld is no choice: a buyer who likes it best is shown the rest.
    made = [o for o in exchange.offers if not exchange.snapshot.rails[o.rail].withheld_for]
    return [offer for offer in made if is_within(exchange, offer)]


def _challenges(exchange: Exchange, binding: Binding, now_s: int) -> list[tuple[str, str]]:
    offers = _made_now(exchange)
    wanted = exchange.head.get("accept-payment")
    fields: list[tuple[str, str]] = []
    for place in rank([(o.method, o.intent) for o in offers], wanted):
        salt = hashlib.sha256(exchange.entropy + place.to_bytes(2)).digest()[:16]
        rail = exchange.snapshot.rails[offers[place].rail]
        fields.extend(rail.challenge(offers[place], binding, now_s, salt))
    return fields
