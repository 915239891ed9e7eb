"""The authors' vectors for the external id of a Stripe charge, through the rail itself."""

import asyncio

import pytest

from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import InvalidChallenge, VerificationFailed
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.protocol.timestamps import parse_rfc3339
from mpp_gateway.rails.base import Binding
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.stripe.client import Answered
from mpp_gateway.rails.stripe.request import Charge, StripeSettings
from mpp_gateway.rails.stripe.seller import StripeRail

SCHEME = PaymentScheme(ChallengeKeys.from_secrets(["a secret of at least thirty-two bytes"]))
BINDING = Binding("api.example.com", "scope")
NOW_S = parse_rfc3339("2026-01-29T12:00:30Z")
ERRORS = {"invalid_challenge": InvalidChallenge, "verification_failed": VerificationFailed}


class Canned:
    """A client that has one answer to give."""

    def __init__(self, intent: dict, amount: int, currency: str) -> None:
        paid = {"amount": amount, "amount_received": amount, "currency": currency}
        self._answer = Answered(intent | paid, intent.get("replayed", False))

    async def create(self, parameters, key):
        return self._answer


def run(given) -> dict:
    """Return what the rail makes of a scenario: a receipt, or the kind of refusal."""
    request, currency = given["request"], given["request"]["currency"].lower()
    settings = StripeSettings(
        "profile_1",
        currency,
        is_live=False,
        payment_method_types=tuple(request["methodDetails"]["paymentMethodTypes"]),
        external_id=request.get("externalId"),
    )
    client = Canned(given["paymentIntent"], int(request["amount"]), currency)
    rail = StripeRail("stripe", settings, SCHEME, client)
    offer = rail.offer(Amount(int(request["amount"]), Asset(currency, 2)), None, None)
    ((_, text),) = rail.challenge(offer, BINDING, NOW_S, b"\0" * 16)
    credential = Credential(Challenge.parse(text), given["payload"])
    head = RequestHead("GET", "/", (("Authorization", credential.format()),))
    try:
        presented = rail.read(head, (offer,), BINDING, NOW_S)
    except (InvalidChallenge, VerificationFailed) as problem:
        return {"ok": False, "error": type(problem)}
    outcome = asyncio.run(rail.settle(presented, presented.amount_minor, NOW_S))
    if outcome.refusal is not None:
        return {"ok": False, "error": type(outcome.refusal)}
    receipt = Receipt.parse(dict(outcome.headers)["Payment-Receipt"])
    extra = {name: value for name, value in receipt.extra.items() if name != "challengeId"}
    core = {name: getattr(receipt, name) for name in ("method", "reference", "status", "timestamp")}
    return {"ok": True, "receipt": core | extra}


def test_the_external_id_of_a_receipt_is_the_sellers_and_cannot_be_forged(conformance):
    scenarios = conformance("stripe-external-id-binding.json")["scenarios"]
    for scenario in scenarios:
        expected, found = scenario["expected"], run(scenario["input"])
        assert found["ok"] is expected["ok"], scenario["name"]
        if expected["ok"]:
            assert found["receipt"] == expected["receipt"], scenario["name"]
        else:
            assert found["error"] is ERRORS[expected["errorType"]], scenario["name"]
    assert len(scenarios) == 5


@pytest.mark.parametrize(
    ("bound", "sent", "error"),
    [("o-1", "o-1", None), ("o-1", "o-2", InvalidChallenge), ("o-1", None, InvalidChallenge),
     (None, "o-2", None)],
)  # fmt: skip
def test_our_own_scenarios_of_external_ids(bound, sent, error):
    """What the published ones say, for a clone without them."""
    request = {
        "amount": "2500",
        "currency": "USD",
        "methodDetails": {"paymentMethodTypes": ["card"]},
    } | ({"externalId": bound} if bound else {})
    payload = {"spt": "spt_1"} | ({"externalId": sent} if sent else {})
    intent = {"id": "pi_1", "status": "succeeded"}

    found = run({"request": request, "payload": payload, "paymentIntent": intent})

    assert found.get("error") is error
    if error is None:
        assert found["receipt"].get("externalId") == bound


def test_the_idempotency_key_is_the_one_that_the_sdks_use(worked_examples):
    case = worked_examples["cases"]["stripe_charge_full"]
    spt = case["credentialPayload"]["spt"]

    assert Charge(150, spt, "proof", case["id"], 1).key == case["stripeIdempotencyKey"]
