"""What other implementations were attacked with (V01 to V27), rule by rule, for x402 payments."""

import ast
import base64
import json
from pathlib import Path

import pytest

from mpp_gateway import events
from tests.support.paid import PRICE, refused, wait_until
from tests.support.x402 import X402Buyer, decoded, encoded, x402_gateway

TESTS = Path(__file__).parents[1]


class NotOurs(str):
    """Why the rule says nothing about an x402 payment at this gateway."""

    __slots__ = ()


RULES: dict[str, str] = {
    "V01": "test_one_signature_in_three_forms_at_once_over_two_protocols_buys_one_call",
    "V02": "test_a_facilitator_that_names_what_did_not_pay_leaves_it_open",
    "V03": "test_a_payment_for_the_cheap_route_does_not_buy_the_dear_one",
    "V04": NotOurs("nothing of the buyer's is signed by us besides a call of the token"),
    "V05": NotOurs("no sessions"),
    "V06": "test_an_x402_payment_buys_no_method_that_is_not_sold",
    "V07": NotOurs("no sessions"),
    "V08": NotOurs("Stripe's own"),
    "V09": "test_ten_copies_at_once_buy_one_call",
    "V10": "test_one_authorization_buys_once_in_whichever_form_and_version_it_comes",
    "V11": "test_a_payment_made_elsewhere_buys_nothing_here",
    "V12": "test_a_payer_without_money_costs_no_gas_and_no_call",
    "V13": "test_an_x402_payment_that_was_used_is_used_after_a_restart",
    "V14": "test_a_malformed_authorization_is_a_400",
    "V15": NotOurs("nothing in an x402 payment is compared with a secret"),
    "V16": "test_an_upstream_that_fails_costs_its_buyer_nothing",
    "V17": "test_a_payment_that_is_shown_again_buys_nothing",
    "V18": "test_the_upstream_sees_neither_the_payment_nor_an_offer",
    "V19": "test_what_is_sold_is_named_by_our_own_address_whatever_host_was_asked",
    "V20": "test_a_payment_of_one_character_too_many_or_in_a_list_is_a_400",
    "V21": "test_no_shared_cache_may_keep_an_offer_or_what_was_paid_for",
    "V22": "test_words_of_the_seller_in_any_letters_break_no_offer",
    "V23": "test_an_offer_in_odd_words_is_taken_by_nobody",
    "V24": "test_a_node_that_lags_behind_does_not_have_a_paid_x402_buyer_pay_again",
    "V25": "test_a_signature_by_another_key_or_for_another_chain_is_refused",
    "V26": "test_not_a_byte_goes_out_of_a_call_whose_x402_payment_cannot_be_settled",
    "V27": NotOurs("a buyer's rule; a redirect of the upstream's is passed on, never followed"),
}


def test_every_rule_has_a_test_or_a_reason():
    assert list(RULES) == [f"V{number:02}" for number in range(1, 28)]
    named = {test for test in RULES.values() if not isinstance(test, NotOurs)}
    there = {
        node.name
        for path in TESTS.rglob("test_*.py")
        if "node_modules" not in path.parts and ".venv" not in path.parts
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert named <= there, named - there


@pytest.fixture
def buyer(tmp_path: Path):
    with x402_gateway(tmp_path) as buyer:
        yield buyer
        assert not buyer.paid.crashes()


def test_an_x402_payment_buys_no_method_that_is_not_sold(buyer: X402Buyer):
    payment = buyer.v2("/api/dear")
    refused(buyer.send(payment, "/api/dear", method="POST"), "method-not-allowed", 405)
    refused(buyer.send(payment, "/api/dear", method="DELETE"), "method-not-allowed", 405)
    buyer.paid.untouched()


def test_a_payer_without_money_costs_no_gas_and_no_call(buyer: X402Buyer):
    payment = buyer.v2()
    buyer.paid.move_money_away()
    sent = buyer.paid.node.calls.count("eth_sendRawTransaction")

    refused(buyer.send(payment), "payment-insufficient")

    assert buyer.paid.node.calls.count("eth_sendRawTransaction") == sent
    assert (buyer.paid.hits, buyer.paid.balance()) == (0, 0)


def test_an_x402_payment_that_was_used_is_used_after_a_restart(buyer: X402Buyer):
    payment = buyer.v2()
    assert buyer.send(payment)[0] == 200
    buyer.paid.stop()
    buyer.paid.start()

    refused(buyer.send(payment), "invalid-challenge")
    refused(buyer.send_v1(payment), "invalid-challenge")
    assert (buyer.paid.hits, buyer.paid.balance()) == (1, PRICE)


def test_what_is_sold_is_named_by_our_own_address_whatever_host_was_asked(buyer: X402Buyer):
    plain = buyer.required("/api/paid")["resource"]["url"]
    evil = "X-Forwarded-Host: evil.example", "Forwarded: host=evil"
    _, headers, _ = buyer.paid.ask("/api/paid", *evil)

    assert decoded(headers["payment-required"])["resource"]["url"] == plain
    for target in ("http://evil.example/api/paid", "//evil.example/api/paid", "/\\evil/api/paid"):
        status, headers, body = buyer.paid.ask(target)
        assert status in (400, 404)
        assert b"evil" not in body
        assert "payment-required" not in headers


def test_no_shared_cache_may_keep_an_offer_or_what_was_paid_for(buyer: X402Buyer):
    buyer.paid.keeper.answers("200 OK", "Cache-Control: public, max-age=600")
    assert buyer.paid.ask()[1]["cache-control"] == "no-store"

    paid = buyer.send(buyer.v2())

    assert (paid[0], paid[1]["cache-control"]) == (200, "private, max-age=600")


def test_words_of_the_seller_in_any_letters_break_no_offer(tmp_path: Path):
    words = 'Météo "now" \\ \u20ac\U0001f327 ' + "\u0663" * 900
    quoted = json.dumps(words, ensure_ascii=False)
    routes = f'\n      "GET /said": {{charge: "0.01", description: {quoted}}}'
    with x402_gateway(tmp_path, routes=routes) as buyer:
        required = buyer.required("/api/said")
        assert required["resource"]["description"] in (words, "")
        assert buyer.v1_required("/api/said")["accepts"][0]["description"] == words
        assert buyer.send(buyer.v2("/api/said"), "/api/said")[0] == 200


def test_not_a_byte_goes_out_of_a_call_whose_x402_payment_cannot_be_settled(buyer: X402Buyer):
    payment = buyer.v2()
    buyer.paid.keeper.answers("200 OK", "X-Upstream: marked", body=b"marked")
    buyer.paid.keeper.before = buyer.paid.spend_from_elsewhere

    response = buyer.send(payment)

    refused(response, "verification-failed")
    assert b"marked" not in response[2]
    assert "x-upstream" not in response[1]
    assert (buyer.paid.hits, buyer.paid.balance()) == (1, 0)


def test_a_node_that_lags_behind_does_not_have_a_paid_x402_buyer_pay_again(tmp_path: Path):
    with x402_gateway(tmp_path, timeouts="settle_s: 2") as buyer:
        payment, node = buyer.v2(), buyer.paid.node
        node.faults |= {"eth_sendRawTransaction": "lost", "eth_getTransactionReceipt": "500"}
        refused(buyer.send(payment), "settlement-unknown", 503)
        node.lies["eth_call"] = lambda _: "0x" + "00" * 32  # as before the payment

        answer = buyer.send(payment)
        refused(answer, "settlement-unknown", 503)
        assert "payment-required" not in answer[1]

        node.lies.clear()
        node.faults.clear()
        wait_until(lambda: buyer.send(payment)[0] == 200, "the paid call was never given")
        assert buyer.paid.balance() == PRICE


def test_no_log_event_or_answer_holds_the_signature_of_an_x402_payment(buyer: X402Buyer, caplog):
    told: list[events.Event] = []
    buyer.paid.proxy.runtime.reporter.sink = told.append
    payment = buyer.v2()
    signature = decoded(payment)["payload"]["signature"][2:]
    spoilt = encoded(decoded(payment) | {"x402Version": 7})
    answers = [buyer.send(text) for text in (spoilt, payment, payment, payment[:-8])]
    answers.append(buyer.paid.ask("/api/free", f"X-PAYMENT: {payment}"))

    assert [answer[0] for answer in answers] == [400, 200, 402, 400, 200]
    kept = b"".join(path.read_bytes() for path in buyer.paid.store.parent.glob("gateway.db*"))
    said = [str(answer[1:]) for answer in answers] + list(buyer.paid.proxy.log) + [caplog.text]
    sent = [str(seen.headers) for seen in buyer.paid.upstream.seen]
    for text in (*said, *sent, kept.decode("latin-1"), str(told)):
        assert signature not in text
        assert base64.b64encode(signature.encode()).decode()[4:60] not in text
        assert payment[:200] not in text
