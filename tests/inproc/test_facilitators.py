"""Two facilitators behind a real gateway: who is asked when the first fails, and who never is.

Asking another one to verify is free. Asking another one to settle what the first may have sent is
how a payment gets lost between the two.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.evm import facilitator_client
from mpp_gateway.rails.evm.breaker import FAILURES_MAX
from tests.support import auth_hooks
from tests.support.evm import now
from tests.support.facilitator import NO_TRANSACTION, StandInFacilitator
from tests.support.faults import NOWHERE, shown
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    Response,
    at_once,
    paid_parts,
    receipt_of,
    refused,
    serve,
)
from tests.support.x402 import settled, x402_gateway

VERIFY, SETTLE = "/verify", "/settle"
SHORT = "settle_s: 4"
PATIENCE_S = 10
SERVED = (200, "", False, False, True)
UNKNOWN = (503, "settlement-unknown", True, False, False)
UNAVAILABLE = (503, "rail-unavailable", True, False, False)


@dataclass
class Pair:
    """A gateway with two facilitators. `paid` has no facilitator of its own."""

    paid: Paid
    first: StandInFacilitator
    second: StandInFacilitator

    @property
    def clients(self) -> list[Any]:
        rail = self.paid.proxy.runtime.serving.rails["evm"]
        return [place.client for place in rail._settler.facilitators.places]

    def asked(self) -> list[tuple[int, str]]:
        """Return who was asked what; settling comes after verifying."""
        both = enumerate((self.first, self.second), 1)
        found = [(number, path) for number, f in both for path, _ in f.asked]
        return sorted(found, key=lambda one: (one[1] == SETTLE, one[0]))

    def buy(self) -> tuple[str, Response]:
        credential = self.paid.buy().format()
        return credential, self.paid.send(credential)

    def spent(self) -> int:
        return PURSE_MINOR - self.paid.purse()


@contextmanager
def pair(
    tmp_path: Path, *, with_rpc: bool = False, first: str = "", timeouts: str = SHORT
) -> Iterator[Pair]:
    """Run a gateway with two; `first` is what else the entry of the first has."""
    with paid_parts(tmp_path, facilitator=True, with_rpc=with_rpc, timeouts=timeouts) as paid:
        second = StandInFacilitator(paid.chain.demo)
        other = serve(paid.stack, paid.chain, second.serve)
        before, _, rest = paid.config.partition('facilitator: "')
        url, _, after = rest.partition('"')
        entries = f'facilitator: [{{url: "{url}"{first}}}, {{url: "{other}"}}]'
        paid.start(before + entries + after)
        try:
            yield Pair(paid, paid.facilitator, second)
        finally:
            paid.keeper.opened.set()
            auth_hooks.held.set()
            paid.facilitator.faults.clear()
            paid.stack.close()


def strike(both: Pair, path: str, fault: str) -> None:
    """Let the first facilitator fail at `path`."""
    if fault != "refuse":
        both.first.faults[path] = fault
        return
    client = both.clients[0]

    def leave() -> None:
        client._url = NOWHERE

    if path == VERIFY:
        leave()
    else:
        both.first.then[VERIFY] = leave


def told_of(both: Pair) -> str:
    """Return what the journal says of every move."""
    return str(both.paid.place.rows("SELECT detail FROM journal"))


@pytest.mark.parametrize(
    "fault", ["refuse", "hang", "reset", "500", "503", "garbage", "shape", "401", "403", "429"]
)
def test_another_facilitator_verifies_and_settles_when_the_first_cannot_verify(tmp_path, fault):
    with pair(tmp_path) as both:
        strike(both, VERIFY, fault)

        _, answer = both.buy()

        assert shown(answer) == SERVED
        asked = [] if fault == "refuse" else [(1, VERIFY)]
        assert both.asked() == [*asked, (2, VERIFY), (2, SETTLE)]
        assert (both.spent(), both.paid.balance()) == (PRICE, PRICE)


def test_no_other_facilitator_is_asked_about_what_the_first_refuses(tmp_path):
    with pair(tmp_path) as both:
        strike(both, VERIFY, "error:invalid_exact_evm_payload_signature")

        _, answer = both.buy()

        document = refused(answer, "verification-failed")
        assert "invalid_exact_evm_payload_signature" in document["detail"]
        assert document["reason"] == "invalid_exact_evm_payload_signature"
        assert both.asked() == [(1, VERIFY)]
        both.paid.untouched(released=1)


@pytest.mark.parametrize("fault", ["hang", "reset", "500", "garbage", "shape", "lost", "stuck"])
@pytest.mark.parametrize("with_rpc", [False, True])
def test_no_other_facilitator_settles_what_the_first_may_have_sent(tmp_path, fault, with_rpc):
    with pair(tmp_path, with_rpc=with_rpc) as both:
        strike(both, SETTLE, fault)

        _, answer = both.buy()

        moved = PRICE if fault == "lost" else 0
        assert shown(answer) == (SERVED if with_rpc and moved else UNKNOWN)
        assert (2, SETTLE) not in both.asked()
        assert both.spent() == moved


def test_what_never_left_for_the_first_is_settled_by_the_other(tmp_path):
    with pair(tmp_path) as both:
        strike(both, SETTLE, "refuse")

        credential, answer = both.buy()

        assert shown(answer) == SERVED
        assert both.asked() == [(1, VERIFY), (2, SETTLE)]
        assert both.spent() == PRICE
        refused(both.paid.send(credential), "invalid-challenge")
        assert both.spent() == PRICE


@pytest.mark.parametrize("fault", ["401", "403", "429"])
def test_a_facilitator_that_turns_the_settlement_away_leaves_the_credential_good(tmp_path, fault):
    with pair(tmp_path) as both:
        strike(both, SETTLE, fault)

        credential, answer = both.buy()
        assert shown(answer) == UNAVAILABLE
        assert both.asked() == [(1, VERIFY), (1, SETTLE)]
        assert both.spent() == 0

        both.first.faults.clear()
        assert shown(both.paid.send(credential)) == SERVED
        assert both.spent() == PRICE


@pytest.mark.parametrize(
    ("reason", "slug"),
    [
        ("insufficient_funds", "payment-insufficient"),
        ("invalid_exact_evm_payload_signature", "verification-failed"),
        ("transaction_failed", "verification-failed"),
    ],
)
def test_a_refused_settlement_is_refused_and_asked_of_nobody_else(tmp_path, reason, slug):
    with pair(tmp_path) as both:
        strike(both, SETTLE, f"error:{reason}")

        _, answer = both.buy()

        assert refused(answer, slug)["reason"] == reason
        assert both.asked() == [(1, VERIFY), (1, SETTLE)]
        assert both.spent() == 0


@pytest.mark.parametrize("with_rpc", [False, True])
def test_a_pending_settlement_is_asked_for_again_where_it_was_sent(tmp_path, with_rpc):
    with pair(tmp_path, with_rpc=with_rpc) as both:
        strike(both, SETTLE, "pending-once")

        _, answer = both.buy()

        assert shown(answer) == SERVED
        (tx_hash,) = both.first.pending.values()
        assert receipt_of(answer).reference == tx_hash
        asked = both.asked()
        assert asked.count((1, SETTLE)) == (1 if with_rpc else 2)  # or the chain has it already
        assert (2, SETTLE) not in asked
        questions = [body for path, body in both.first.asked if path == SETTLE]
        assert all(question == questions[0] for question in questions)
        assert both.spent() == PRICE


def test_a_settlement_that_stays_pending_is_asked_for_a_few_times_and_is_then_unknown(tmp_path):
    with pair(tmp_path) as both:
        strike(both, SETTLE, "pending-ever")

        _, answer = both.buy()

        assert shown(answer) == UNKNOWN
        assert 2 <= both.asked().count((1, SETTLE)) <= 5
        assert both.paid.states() == {"unknown": 1}
        (tx_hash,) = both.first.pending.values()
        assert tx_hash in told_of(both)
        assert both.spent() == PRICE


def test_a_payer_whose_pending_payment_emptied_the_purse_is_not_asked_to_pay_again(tmp_path):
    """Asked again, the facilitator checks anew and finds nothing left: the money is on its way."""
    with pair(tmp_path) as both:
        strike(both, SETTLE, "overdrawn")

        _, answer = both.buy()

        assert shown(answer) == UNKNOWN
        assert both.spent() == PRICE


def test_a_named_transaction_in_no_block_is_kept_while_the_chain_shows_nothing(tmp_path):
    with pair(tmp_path, with_rpc=True) as both:
        strike(both, SETTLE, "stuck")

        _, answer = both.buy()

        assert shown(answer) == UNKNOWN
        assert NO_TRANSACTION in told_of(both)


def test_without_any_facilitator_no_new_payment_is_asked_for(tmp_path):
    with pair(tmp_path) as both:
        strike(both, VERIFY, "500")
        both.second.fault = "429"

        credential, answer = both.buy()

        refused(answer, "rail-unavailable", 503)
        assert shown(answer) == UNAVAILABLE
        both.first.faults.clear()
        assert shown(both.paid.send(credential)) == SERVED


def test_a_failing_facilitator_is_passed_over_until_it_is_tried_again(tmp_path):
    with pair(tmp_path) as both:
        strike(both, VERIFY, "500")

        answers = [both.buy()[1] for _ in range(FAILURES_MAX + 2)]

        assert [shown(answer) for answer in answers] == [SERVED] * len(answers)
        assert both.asked().count((1, VERIFY)) == FAILURES_MAX
        assert any("passed over" in line for line in both.paid.proxy.log)


# Who we are to the facilitator


HOOK = ", auth_hook: 'tests.support.auth_hooks:{}'"


@pytest.mark.parametrize("function", ["sign", "sign_async"])
def test_a_hook_signs_each_request_for_its_method_host_and_path(tmp_path, function):
    auth_hooks.reset()
    with pair(tmp_path, first=HOOK.format(function)) as both:
        both.first.key = f"Bearer {auth_hooks.MARK}"
        auth_hooks.asked.clear()

        _, answer = both.buy()

        assert shown(answer) == SERVED
        assert both.asked() == [(1, VERIFY), (1, SETTLE)]
        (host,) = {request.host for request in auth_hooks.asked}
        assert host == both.clients[0].name
        assert [(r.method, r.path) for r in auth_hooks.asked] == [
            ("POST", VERIFY),
            ("POST", SETTLE),
        ]


def test_a_stale_token_is_a_reason_to_ask_the_other_and_a_fresh_one_is_taken_at_once(tmp_path):
    fresh = f"Bearer {auth_hooks.MARK}"
    auth_hooks.reset()
    with pair(tmp_path, first=HOOK.format("sign")) as both:
        both.first.key = fresh
        auth_hooks.reset("Bearer stale", fresh)

        assert shown(both.buy()[1]) == SERVED
        assert both.asked() == [(1, VERIFY), (2, VERIFY), (2, SETTLE)]
        assert shown(both.buy()[1]) == SERVED
        assert both.asked().count((1, SETTLE)) == 1


@pytest.mark.parametrize(
    "given",
    [
        ValueError(f"cannot sign with {auth_hooks.MARK}"),
        KeyError(auth_hooks.MARK),
        {"Authorization": f"{auth_hooks.MARK}\r\nX-Injected: yes"},
        {"Host": auth_hooks.MARK},
        {auth_hooks.MARK: 5},
        [auth_hooks.MARK],
        None,
    ],
    ids=repr,
)
def test_a_hook_that_fails_costs_its_facilitator_the_question_and_shows_nothing(tmp_path, given):
    auth_hooks.reset()
    with pair(tmp_path, first=HOOK.format("sign")) as both:
        auth_hooks.reset(given)

        _, answer = both.buy()

        assert shown(answer) == SERVED
        assert both.asked() == [(2, VERIFY), (2, SETTLE)]
        both.second.fault = "500"
        refusals = [both.buy()[1] for _ in range(FAILURES_MAX)]
        assert [shown(refusal) for refusal in refusals] == [UNAVAILABLE] * FAILURES_MAX
        told = "\n".join([*both.paid.proxy.log, str(answer), str(refusals)])
        assert "auth_hook: " in told
        assert auth_hooks.MARK not in told


def test_a_hook_that_fails_before_the_settlement_lets_the_other_settle(tmp_path):
    auth_hooks.reset()
    with pair(tmp_path, first=HOOK.format("sign")) as both:
        auth_hooks.reset("Bearer good", ValueError("no"))

        assert shown(both.buy()[1]) == SERVED
        assert both.asked() == [(1, VERIFY), (2, SETTLE)]
        assert both.spent() == PRICE


@pytest.mark.parametrize("function", ["sign", "sign_async"])
def test_a_slow_hook_holds_up_no_other_call_and_not_its_own_for_long(
    tmp_path, function, monkeypatch
):
    monkeypatch.setattr(facilitator_client, "HOOK_S", 1)
    auth_hooks.reset()
    with pair(tmp_path, first=HOOK.format(function), timeouts="settle_s: 30") as both:
        auth_hooks.held.clear()
        credential, began_s = both.paid.buy().format(), time.monotonic()

        paid, free = at_once(
            [
                lambda: both.paid.send(credential),
                lambda: [both.paid.ask("/api/free")[0] for _ in range(20)],
            ]
        )

        assert set(free) == {200}
        assert shown(paid) == SERVED
        assert time.monotonic() - began_s < PATIENCE_S
        assert both.asked() == [(2, VERIFY), (2, SETTLE)]


# What they say they can do


def test_a_facilitator_that_does_not_settle_on_our_network_is_passed_over(tmp_path):
    with pair(tmp_path) as both:
        kind = {"x402Version": 2, "scheme": "exact", "network": "eip155:1"}
        both.first.supports = {"kinds": [kind]}
        rail = both.paid.proxy.runtime.serving.rails["evm"]
        both.paid.proxy.call(lambda: rail.maintain(0))

        assert shown(both.buy()[1]) == SERVED
        assert both.asked() == [(2, VERIFY), (2, SETTLE)]


@pytest.mark.parametrize(
    "supports",
    [
        404,
        401,
        {"kinds": []},
        {"kinds": "all"},
        {"kinds": [5, {}, {"x402Version": True}], "signers": 5, "extensions": {}},
        {"kinds": [{"x402Version": 2, "scheme": "exact", "network": "eip155:*"}]},
    ],
    ids=str,
)
def test_a_facilitator_that_does_not_say_what_it_supports_is_used(tmp_path, supports):
    with paid_parts(tmp_path, facilitator=True) as paid:
        paid.facilitator.supports = supports
        paid.start()

        assert paid.proxy.runtime.serving.unready == {}
        assert shown(paid.send(paid.buy())) == SERVED
        paid.stack.close()


@pytest.mark.parametrize(
    "kind",
    [
        {"x402Version": 2, "scheme": "exact", "network": "eip155:1"},
        {"x402Version": 2, "scheme": "upto", "network": "eip155:31337"},
        {"x402Version": 1, "scheme": "exact", "network": "eip155:31337"},
    ],
    ids=str,
)
def test_a_gateway_does_not_start_where_no_facilitator_settles_its_payments(tmp_path, kind):
    with paid_parts(tmp_path, facilitator=True) as paid:
        paid.facilitator.supports = {"kinds": [kind]}
        paid.start()

        assert paid.proxy.runtime.failure == (
            "methods.evm.submit.facilitator: it does not settle payments of the scheme `exact` on"
            " eip155:31337, by what it says at /supported"
        )
        paid.stack.close()


def test_a_facilitator_that_gives_up_our_network_later_is_a_problem_that_passes(tmp_path):
    with paid_parts(tmp_path, facilitator=True) as paid:
        paid.start()
        rail = paid.proxy.runtime.serving.rails["evm"]
        paid.facilitator.supports = {
            "kinds": [{"x402Version": 2, "scheme": "exact", "network": "eip155:1"}]
        }
        with pytest.raises(RailUnavailable, match="no longer settles"):
            paid.proxy.call(lambda: rail.maintain(now()))

        paid.facilitator.supports = None
        assert paid.proxy.call(lambda: rail.maintain(now())) == 0
        assert shown(paid.send(paid.buy())) == SERVED
        paid.stack.close()


@pytest.mark.parametrize("path", [VERIFY, SETTLE])
@pytest.mark.parametrize("fault", ["error:insufficient_funds", "error:My key is 0x12"])
def test_an_x402_buyer_is_told_the_facilitators_own_code_and_no_other_word(tmp_path, path, fault):
    with x402_gateway(tmp_path, facilitator=True) as buyer:
        buyer.paid.facilitator.faults[path] = fault
        answers = [buyer.send(buyer.v2()), buyer.send_v1(buyer.v1())]

        if path == SETTLE and "key" in fault:
            assert [shown(answer) for answer in answers] == [UNKNOWN] * 2
            return
        told = [settled(answers[0]), settled(answers[1], "x-payment-response")]
        reason = "payment_refused" if "key" in fault else "insufficient_funds"
        assert [(one["success"], one["errorReason"]) for one in told] == [(False, reason)] * 2
        assert buyer.paid.purse() == PURSE_MINOR
        assert "My key" not in str(answers)
