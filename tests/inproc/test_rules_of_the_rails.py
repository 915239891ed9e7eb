"""What went wrong in other implementations, row by row: the test that keeps it from each rail.

V01 to V27 are the advisories and fixes of MPP and x402 implementations that are known. A row that
is decided before any rail is asked stands under `any`.
"""

import ast
import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from tests.support.evm import now
from tests.support.paid import paid_gateway, refused
from tests.support.scene import VERSIONS, call
from tests.support.tills import TILLS, TIMES, Till

TESTS = Path(__file__).parents[1]
FOREIGN = {"node_modules", ".venv"}
SPENT = "invalid-challenge"
LONG_AFTER_S = 100_000


class NotOurs(str):
    """Why there is nothing to break in."""

    __slots__ = ()


SESSIONS = NotOurs("there are no sessions: every call is a charge of its own")
KNOWN_BY_SECRET = NotOurs("a token is a secret that no chain shows, and is claimed by its digest")
NO_SPONSOR = NotOurs("there is no second signature: nobody adds a fee to what a buyer has signed")

RULES: dict[str, dict[str, str]] = {
    "V01": {
        "evm": "test_a_settled_payment_is_refused_when_its_text_is_written_otherwise",
        "stripe": "test_a_token_that_has_paid_buys_nothing_with_another_challenge",
        "tempo": "test_a_transaction_shown_as_pull_and_as_push_is_one_payment",
    },
    "V02": {
        "evm": "test_an_expired_credential_that_paid_somebody_else_buys_nothing",
        "stripe": "test_only_a_charge_of_this_very_amount_settles",
        "tempo": "test_a_transfer_that_is_not_this_payment_buys_nothing",
    },
    "V03": {
        "evm": "test_a_credential_of_one_request_buys_no_other",
        "stripe": "test_a_credential_of_the_cheap_route_does_not_buy_the_dear_one",
        "tempo": "test_a_transaction_of_a_cheap_route_buys_no_dear_one",
    },
    "V04": {
        "evm": NO_SPONSOR,
        "stripe": NO_SPONSOR,
        "tempo": "test_a_fee_payer_that_is_told_another_sender_signs_nothing",
    },
    "V05": {"any": SESSIONS},
    "V06": {"any": "test_what_is_not_there_is_404_or_405_whoever_offers_to_pay"},
    "V07": {"any": SESSIONS},
    "V08": {
        "evm": NotOurs("no network but Stripe's answers from memory"),
        "stripe": "test_a_charge_that_stripe_has_made_before_buys_nothing",
        "tempo": NotOurs("no network but Stripe's answers from memory"),
    },
    "V09": {
        "any": "test_many_claims_from_two_processes_worth_of_writers_are_one_claim",
        "evm": "test_twenty_copies_at_once_reach_the_upstream_once_and_are_charged_once",
        "stripe": "test_ten_copies_at_once_buy_one_call",
        "tempo": "test_ten_copies_at_once_buy_one_call",
    },
    "V10": {
        "evm": "test_a_signature_for_another_challenge_pays_for_none",
        "stripe": "test_a_token_that_has_paid_buys_nothing_with_another_challenge",
        "tempo": "test_one_transaction_does_not_pay_for_two_challenges",
    },
    "V11": {
        "evm": "test_a_front_run_payment_is_settled_by_whoever_submitted_it",
        "stripe": KNOWN_BY_SECRET,
        "tempo": "test_a_strangers_transfer_pays_for_nobody_else_and_still_pays_for_him",
    },
    "V12": {
        "evm": "test_above_the_ceiling_a_payment_is_refused_before_it_is_claimed_or_sent",
        "stripe": "test_who_hangs_up_before_the_upstream_is_asked_has_a_credit_and_no_refund",
        "tempo": "test_what_would_drain_the_sponsor_is_not_signed",
    },
    "V13": {
        "evm": "test_two_gateways_on_one_store_accept_a_payment_once",
        "stripe": "test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end",
        "tempo": "test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end",
    },
    "V14": {
        "evm": "test_a_challenge_with_any_member_changed_or_left_out_pays_for_nothing",
        "stripe": "test_a_challenge_with_any_member_changed_or_left_out_pays_for_nothing",
        "tempo": "test_a_challenge_with_any_member_changed_or_left_out_pays_for_nothing",
    },
    "V15": {
        "any": "test_short_and_missing_secrets_are_refused",
        "evm": "test_a_challenge_under_a_foreign_secret_is_refused",
        "stripe": "test_a_challenge_that_somebody_else_has_issued_pays_for_nothing",
        "tempo": "test_a_challenge_that_somebody_else_has_issued_pays_for_nothing",
    },
    "V16": {
        "evm": "test_no_receipt_on_an_answer_that_is_no_success",
        "stripe": "test_an_upstream_that_fails_has_its_charge_refunded_once",
        "tempo": "test_an_upstream_that_fails_costs_its_buyer_nothing",
    },
    "V17": {
        "evm": "test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end",
        "stripe": "test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end",
        "tempo": "test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end",
    },
    "V18": {
        "any": "test_fields_that_steer_the_sellers_account_never_reach_a_known_service",
        "evm": "test_the_upstream_sees_our_secret_once_whatever_the_client_sent",
        "stripe": "test_nothing_of_a_payment_reaches_the_upstream_and_nobody_keeps_its_answer",
        "tempo": "test_nothing_of_a_payment_reaches_the_upstream_and_nobody_keeps_its_answer",
    },
    "V19": {"any": "test_a_target_that_resolves_to_another_host_is_refused"},
    "V20": {
        "any": "test_a_credential_of_64_kib_is_within_bounds",
        "evm": "test_garbage_is_refused_with_a_fresh_challenge",
        "stripe": "test_a_credential_beyond_all_bounds_is_refused_before_it_is_read",
        "tempo": "test_a_credential_beyond_all_bounds_is_refused_before_it_is_read",
    },
    "V21": {
        "any": "test_every_402_says_no_store",
        "evm": "test_a_paid_answer_is_for_no_shared_cache",
        "stripe": "test_nothing_of_a_payment_reaches_the_upstream_and_nobody_keeps_its_answer",
        "tempo": "test_nothing_of_a_payment_reaches_the_upstream_and_nobody_keeps_its_answer",
    },
    "V22": {
        "any": "test_the_scheme_name_inside_a_quoted_string_is_no_boundary",
        "evm": "test_whatever_a_seller_writes_of_a_call_it_can_be_bought",
        "stripe": NotOurs("one line writes the challenges of every rail"),
        "tempo": NotOurs("one line writes the challenges of every rail"),
    },
    "V23": {
        "evm": "test_noise_of_any_kind_is_refused_and_never_a_fault",
        "stripe": "test_a_member_of_any_other_kind_is_refused_and_never_a_fault",
        "tempo": "test_a_member_of_any_other_kind_is_refused_and_never_a_fault",
    },
    "V24": {
        "evm": "test_a_node_whose_receipts_lag_behind_its_counts_has_no_refund_paid_twice",
        "stripe": "test_that_there_is_no_charge_is_believed_only_after_a_while",
        "tempo": "test_a_missing_receipt_proves_nothing_before_the_end_and_a_nodes_lag",
    },
    "V25": {"any": NotOurs("there is no rail on Solana")},
    "V26": {
        "evm": "test_money_that_leaves_between_the_check_and_the_settlement_buys_not_one_byte",
        "stripe": "test_a_capture_that_is_refused_charges_nothing_and_delivers_nothing",
        "tempo": "test_money_that_is_gone_when_it_is_sent_buys_nothing",
    },
    "V27": {"any": "test_a_redirect_cannot_lead_away_under_our_name"},
}
RAILS = ("evm", "stripe", "tempo")


@functools.cache
def known_tests() -> frozenset[str]:
    ours = (p for p in TESTS.rglob("test_*.py") if not FOREIGN & set(p.parts))
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in ours)
    nodes = (node for tree in trees for node in tree.body)
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("rule", [f"V{n:02}" for n in range(1, 28)])
def test_every_rule_has_a_test_for_every_rail_or_a_reason(rule):
    answers = RULES[rule]
    assert "any" in answers or set(answers) == set(RAILS)
    for rail, answer in answers.items():
        assert isinstance(answer, NotOurs) or answer in known_tests(), (rail, answer)
        assert len(answer) > 20


def test_the_rules_are_those_that_are_known():
    assert list(RULES) == [f"V{n:02}" for n in range(1, 28)]


# What no other file tests, for all of them alike


@pytest.fixture(params=[name for name in TILLS if not name.startswith("x402")])
def till(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Till]:
    """Of every way to pay that answers a challenge; test_x402_rules.py has the others."""
    with TILLS[request.param](tmp_path, TIMES) as till:
        yield till


def test_what_was_paid_buys_no_second_call_after_a_restart_and_long_after_its_end(till: Till):
    """V13, V17: the mark that a proof was used is in no memory, and is never dropped."""
    credential = till.buy()
    assert till.shop.send(credential)[0] == 200

    till.shop.stop()
    till.shop.start()
    refused(till.shop.send(credential), SPENT)
    serving = till.shop.proxy.runtime.serving
    serving.executor.clock = lambda: now() + LONG_AFTER_S
    till.shop.proxy.call(lambda: serving.exchanges.purge(now() + LONG_AFTER_S))

    assert till.shop.send(credential)[0] == 402
    assert (till.shop.hits, till.takings()) == (1, till.price_minor)


def test_a_challenge_with_any_member_changed_or_left_out_pays_for_nothing(till: Till):
    """V03, V14, V15: what was issued is what counts, and an end that is not there is no end."""
    good = till.buy()
    challenge = good.challenge
    dear = till.shop.challenge("/api/dear")
    changes: list[dict[str, Any]] = [
        {"id": dear.id},
        {"id": challenge.id[:-1] + ("A" if challenge.id[-1] != "A" else "B")},
        {"realm": "evil.example"},
        {"request": dear.request},
        {"expires": None},
        {"expires": "never"},
        {"expires": "2999-01-01T00:00:00Z"},
        {"opaque": dear.opaque},
        {"opaque": None},
        {"digest": "sha-256=:AAAA:"},
        {"header": "Payment-Authorization"},
    ]

    for change in changes:
        refused(till.shop.send(replace(good, challenge=replace(challenge, **change))), SPENT)
    refused(till.shop.send(replace(good, challenge=dear)), SPENT)

    till.nothing_happened()
    assert till.shop.send(good)[0] == 200


def test_a_challenge_that_somebody_else_has_issued_pays_for_nothing(till: Till):
    """V15: signed for our realm and route, with our words, and another key."""
    ours = till.shop.challenge()
    issued = ChallengeKeys.from_secrets(["another-secret-another-secret-0123456789"]).issue(
        realm=ours.realm,
        method=ours.method,
        intent=ours.intent,
        request=ours.request,
        expires=ours.expires,
        opaque=ours.opaque,
    )

    refused(till.shop.send(till.pay(issued)), SPENT)

    till.nothing_happened()


def test_a_credential_beyond_all_bounds_is_refused_before_it_is_read(till: Till):
    """V20"""
    good = till.buy()

    long = replace(good, payload={**good.payload, "more": "x" * 66_000})

    assert till.shop.send(long)[0] in (402, 431)
    till.nothing_happened()


def test_nothing_of_a_payment_reaches_the_upstream_and_nobody_keeps_its_answer(till: Till):
    """V18, V21: whoever is upstream could spend what is not spent here."""
    asked = till.shop.ask()
    credential = till.pay(Challenge.parse(asked[1]["www-authenticate"]))
    others = (
        f"Payment-Authorization: {till.buy().format()}",
        "Accept-Payment: stripe/charge, tempo/charge",
        "Payment-Receipt: forged",
        "Stripe-Account: acct_evil",
        "Cookie: session=1",
        "X-Forwarded-For: 10.0.0.1",
    )

    status, fields, _ = till.shop.send(credential, "/api/paid", *others)

    assert status == 200
    (seen,) = till.shop.upstream.seen
    assert {name.lower() for name, _ in seen.headers} <= {"host", "stripe-account", "authorization"}
    assert seen.get("authorization") in (None, "Bearer marked-upstream-secret")
    assert asked[1]["cache-control"] == "no-store"
    assert "private" in fields["cache-control"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Two lines,\nand a third:\r\nX-Evil: 1\n", "Two lines, and a third: X-Evil: 1"),
        ('M\u00e9t\u00e9o "now" \\ \u20ac\U0001f327', 'M\u00e9t\u00e9o "now" \\ \u20ac\U0001f327'),
        ("a\tb \x07c\x7f", "a b c"),
        ('", realm="evil', '", realm="evil'),
        ("\u0663" * 10_000, "\u0663" * 499 + "\u2026"),
    ],
    ids=["lines", "letters", "controls", "a parameter", "a page"],
)
def test_whatever_a_seller_writes_of_a_call_it_can_be_bought(tmp_path: Path, words, shown):
    """V22: as YAML has it, a description has lines; a header field has one."""
    quoted = json.dumps(words, ensure_ascii=False).replace("\x7f", "\\x7f")
    routes = f'\n      "GET /said": {{charge: "0.01", description: {quoted}}}'
    with paid_gateway(tmp_path, routes=routes) as paid:
        status, fields, _ = paid.ask("/api/said")
        challenge = Challenge.parse(fields["www-authenticate"])

        assert (status, challenge.description, "x-evil" in fields) == (402, shown, False)
        assert paid.send(paid.sign(challenge), "/api/said")[0] == 200
        assert not paid.crashes()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_call_is_paid_once_over_every_version_of_http(till: Till, version: str):
    credential = till.buy()
    port, field = till.shop.proxy.port, ("authorization", credential.format())

    first = call(version, port, "GET", "/api/paid", field)
    second = call(version, port, "GET", "/api/paid", field)

    assert (first.status, second.status) == (200, 402)
    assert "payment-receipt" in first.fields
    assert "payment-receipt" not in second.fields
    assert (till.shop.hits, till.takings()) == (1, till.price_minor)
