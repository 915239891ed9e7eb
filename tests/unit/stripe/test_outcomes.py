"""What Stripe's objects say of the money."""

import pytest

from mpp_gateway.protocol.problems import (
    PaymentActionRequired,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.rails.base import Settlement as State
from mpp_gateway.rails.stripe.outcomes import read_intent, read_refunds, refusal_of

PAID = {"id": "pi_1", "status": "succeeded", "amount": 100, "amount_received": 100}


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, State.SETTLED),
        ({"status": "processing"}, State.UNKNOWN),
        ({"status": "requires_capture"}, State.UNKNOWN),
        ({"status": "requires_action"}, State.REFUSED),
        ({"status": "requires_payment_method"}, State.REFUSED),
        ({"status": "canceled"}, State.REFUSED),
        ({"status": "something new"}, State.UNKNOWN),
        ({"status": None}, State.UNKNOWN),
        ({"amount_received": 99}, State.UNKNOWN),
        ({"amount": 99, "amount_received": 99}, State.UNKNOWN),
        ({"currency": "jpy"}, State.UNKNOWN),
    ],
    ids=str,
)
def test_only_a_charge_of_this_very_amount_settles(changes, state):
    assert read_intent({**PAID, "currency": "usd", **changes}, 100, "usd").state is state


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("insufficient_funds", PaymentInsufficient),
        ("authentication_required", PaymentActionRequired),
        ("generic_decline", VerificationFailed),
        ("resource_missing", VerificationFailed),
    ],
)
def test_a_decline_is_told_by_its_code(code, kind):
    assert type(refusal_of(code)) is kind


def test_refunds_are_added_up_by_what_became_of_them():
    refunds = [
        {"id": "re_1", "amount": 40, "status": "succeeded"},
        {"id": "re_2", "amount": 60, "status": "failed"},
        {"id": "re_3", "amount": 60, "status": "pending"},
    ]
    given = read_refunds(refunds)

    assert (given.back_minor, given.waiting_minor, given.tries) == (40, 60, 1)
    assert given.reference == "re_3"
