"""x402 by use: signed for the most, settled for what the upstream says, at a real gateway."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.x402_permits import UPTO_PROXY
from tests.support.client import RawClient
from tests.support.command import run
from tests.support.evm import address, now
from tests.support.evm_permits import GIVE_UP
from tests.support.facilitator import STAND_IN_KEY, permit_settle
from tests.support.paid import (
    DEAR,
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    refused,
    slug_of,
    wait_until,
)
from tests.support.upto import UptoBuyer, asked, new_chain, upto_gateway
from tests.support.x402 import decoded, encoded, settled

USED = 4_200
SAID = '{"amount":"4200"}'


@pytest.fixture
def buyer(tmp_path: Path) -> Iterator[UptoBuyer]:
    with upto_gateway(tmp_path) as buyer:
        yield buyer
        assert not buyer.paid.crashes()


def booked(buyer: UptoBuyer) -> list[tuple[str, int]]:
    return [(row["state"], int(row["amount_minor"])) for row in buyer.paid.rows()]


# What is offered


def test_an_offer_by_use_stands_first_and_names_its_facilitator(buyer: UptoBuyer):
    buyer.entry()

    by_use, exact = buyer.required()["accepts"]

    assert (by_use["scheme"], exact["scheme"]) == ("upto", "exact")
    assert by_use["amount"] == exact["amount"] == str(PRICE)
    assert by_use["extra"]["assetTransferMethod"] == "permit2"
    assert by_use["extra"]["facilitatorAddress"] == checksum(address_of(STAND_IN_KEY))
    assert [e["scheme"] for e in buyer.v1_required().get("accepts", [])] == []
    plain = buyer.required("/api/plain")["accepts"]
    assert [e["scheme"] for e in plain] == ["exact"]
    assert "GasSponsoring" not in json.dumps(buyer.required())


def test_nothing_is_sold_by_use_while_the_facilitator_does_not_say_that_it_can(tmp_path: Path):
    with upto_gateway(tmp_path) as buyer:
        payment = buyer.buy()
        buyer.paid.stop()
        buyer.facilitator.supports = None
        buyer.paid.start()

        assert [e["scheme"] for e in buyer.required()["accepts"]] == ["exact"]
        assert buyer.send(payment)[0] == 503
        buyer.paid.untouched(released=1)


@pytest.mark.parametrize("name", ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"])
def test_a_sponsored_allowance_is_offered_and_goes_to_the_facilitator_untouched(tmp_path, name):
    with upto_gateway(tmp_path, name) as buyer:
        buyer.entry()
        offered = buyer.required()["extensions"]
        said = {"info": {"signature": "0xabc", "amount": "1"}}
        extensions = {name: said, "other": {"info": {}}}

        answer = buyer.send(buyer.payment(buyer.permit(), extensions=extensions))

        assert offered[name]["info"]["version"] == "1"
        assert name not in buyer.required("/api/plain")["extensions"]
        assert answer[0] == 200
        for path in ("/verify", "/settle"):
            (body,) = asked(buyer.facilitator, path)
            assert body["paymentPayload"]["extensions"] == {name: said}


# What is paid


def test_what_was_used_is_moved_told_and_booked(buyer: UptoBuyer):
    buyer.uses(SAID)

    answer = buyer.send(buyer.buy())

    paid = buyer.paid
    assert answer[0] == 200
    assert "settlement-overrides" not in answer[1]
    assert (paid.balance(), paid.purse(), paid.hits) == (USED, PURSE_MINOR - USED, 1)
    assert booked(buyer) == [("settled", USED)]
    said = settled(answer)
    assert (said["success"], said["amount"], said["payer"]) == (
        True,
        str(USED),
        address(paid.key),
    )
    assert paid.chain.transaction(said["transaction"])["status"] == "0x1"
    (verified,), (moved,) = (asked(buyer.facilitator, path) for path in ("/verify", "/settle"))
    assert verified["paymentRequirements"]["amount"] == str(PRICE)
    assert moved["paymentRequirements"]["amount"] == str(USED)
    assert moved["paymentPayload"] == verified["paymentPayload"]


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", '{"amount":4200}', '{"amount":"-1"}', '{"amount":"0.5"}', '{"amount":"x"}',
     '{"amount":"10001"}', '{"amount":"9' + "9" * 76 + '"}',
     SAID + "\r\nSettlement-Overrides: " + SAID],
)  # fmt: skip
def test_what_is_not_said_plainly_costs_the_most_and_never_more(buyer: UptoBuyer, said: str):
    if said:
        buyer.uses(said)

    answer = buyer.send(buyer.buy())

    assert answer[0] == 200
    assert "settlement-overrides" not in answer[1]
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


def test_what_used_nothing_moves_nothing_and_is_delivered_once(buyer: UptoBuyer):
    buyer.uses('{"amount":"0"}')
    payment = buyer.buy()

    answer = buyer.send(payment)

    assert answer[0] == 200
    assert (settled(answer)["amount"], settled(answer)["transaction"]) == ("0", "")
    assert asked(buyer.facilitator, "/settle") == []
    assert (buyer.paid.balance(), booked(buyer)) == (0, [("settled", 0)])
    assert buyer.send(payment)[0] == 402
    assert buyer.paid.hits == 1


def test_who_cannot_pay_by_use_pays_the_price_and_sees_no_override(buyer: UptoBuyer):
    buyer.uses(SAID)

    answer = buyer.paid.send(buyer.paid.buy())

    assert answer[0] == 200
    assert "settlement-overrides" not in answer[1]
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


def test_a_head_that_says_what_was_used_is_settled_before_its_body(buyer: UptoBuyer):
    buyer.paid.keeper.raw = (
        b"HTTP/1.1 200 OK\r\nSettlement-Overrides: " + SAID.encode() + b"\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n\r\n"
    )

    answer = buyer.send(buyer.buy())

    assert (answer[0], answer[2]) == (200, b"part")
    assert settled(answer)["amount"] == str(USED)
    assert buyer.paid.balance() == USED


def test_a_trailer_that_says_what_was_used_is_neither_read_nor_passed_on(buyer: UptoBuyer):
    buyer.paid.keeper.raw = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n"
        b"X-Sum: 7\r\nSettlement-Overrides: " + SAID.encode() + b"\r\n\r\n"
    )

    answer = buyer.send(buyer.buy())

    assert (answer[0], answer[2], answer[1]["x-sum"]) == (200, b"part", "7")
    assert "settlement-overrides" not in answer[1]
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


def test_the_books_of_sales_by_use_are_sound_and_agree_with_the_chain(buyer, tmp_path: Path):
    for minor in (USED, 0, PRICE):
        buyer.uses(json.dumps({"amount": str(minor)}))
        assert buyer.send(buyer.buy())[0] == 200
    config = tmp_path / "gateway.yaml"
    config.write_text(buyer.paid.config)

    def asked_of(word: str) -> dict:
        done = run("ledger", word, "--config", config, home=tmp_path)
        assert (done.code, done.err) == (0, ""), done
        return json.loads(done.out)

    checked, compared = asked_of("verify"), asked_of("reconcile")

    assert (checked["sound"], checked["exchanges"], checked["faults"]) == (True, 3, [])
    (rail,) = compared["compared"]
    assert (compared["agrees"], rail["found"], rail["differences"]) == (True, 3, [])
    assert sum(minor for _, minor in booked(buyer)) == buyer.paid.balance() == USED + PRICE


# What buys nothing


def test_a_replayed_permit_buys_one_call(buyer: UptoBuyer):
    buyer.uses(SAID)
    permit = buyer.permit()
    flipped = permit.signature[:-1] + bytes((permit.signature[-1] - 27,))

    assert buyer.send(buyer.payment(permit))[0] == 200
    for again in (permit, replace(permit, signature=flipped), replace(permit, valid_after=0)):
        assert buyer.send(buyer.payment(again))[0] == 402

    assert (buyer.paid.balance(), buyer.paid.hits, len(buyer.paid.rows())) == (USED, 1, 1)


def test_ten_copies_at_once_run_the_upstream_once(buyer: UptoBuyer):
    buyer.uses(SAID)
    payment = buyer.buy()

    answers = at_once([lambda: buyer.send(payment)] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert (buyer.paid.balance(), buyer.paid.hits) == (USED, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_minor": PRICE - 1},
        {"amount_minor": PRICE + 1},
        {"spender": parse_address(address(fresh_key("spender")))},
        {"token": parse_address(address(fresh_key("token")))},
        {"to": parse_address(address(fresh_key("to")))},
        {"chain_id": 1},
        {"valid_after": now() + 10_000},
        {"deadline": now() - 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_permit_for_other_terms_is_refused_before_it_is_stored(buyer: UptoBuyer, changes):
    answer = buyer.send(buyer.buy(**changes))

    assert answer[0] == 402
    assert buyer.facilitator.asked == []
    buyer.paid.untouched()


def test_a_permit_of_somebody_else_is_refused(buyer: UptoBuyer):
    permit = buyer.permit(key=fresh_key("thief"), owner=address_of(buyer.paid.key))

    refused(buyer.send(buyer.payment(permit)), "verification-failed")

    buyer.paid.untouched()


def test_a_permit_for_another_facilitator_is_refused_and_never_shown(buyer: UptoBuyer):
    other = parse_address(address(fresh_key("other facilitator")))

    refused(buyer.send(buyer.buy(facilitator=other)), "verification-failed")

    assert buyer.facilitator.asked == []
    buyer.paid.untouched(released=1)


def test_a_permit_buys_nothing_on_a_route_that_is_not_sold_by_use(buyer: UptoBuyer):
    refused(buyer.send(buyer.buy(), "/api/plain"), "verification-failed")
    buyer.paid.untouched()


def test_a_cheaper_routes_offer_buys_nothing_dearer(buyer: UptoBuyer):
    permit = buyer.permit("/api/dear")
    cheap = decoded(buyer.payment(permit, "/api/dear"))
    cheap["accepted"]["amount"] = str(PRICE)

    refused(buyer.send(encoded(cheap), "/api/dear"), "verification-failed")
    assert buyer.paid.hits == 0
    assert DEAR != PRICE


@pytest.mark.parametrize("payload", [{}, {"permit2Authorization": {}}, {"signature": "0x"}])
def test_what_cannot_be_read_is_a_400(buyer: UptoBuyer, payload):
    document = {"x402Version": 2, "payload": payload, "accepted": buyer.entry()}

    refused(buyer.send(encoded(document)), "malformed-payment", 400)


def test_an_empty_purse_buys_nothing(buyer: UptoBuyer):
    payment = buyer.buy()
    buyer.paid.move_money_away()

    refused(buyer.send(payment), "payment-insufficient")
    buyer.paid.untouched(released=1)


def test_a_missing_allowance_is_the_facilitators_word_to_the_buyer(buyer: UptoBuyer):
    buyer.facilitator.faults["/verify"] = "error:permit2_allowance_required"

    problem = refused(buyer.send(buyer.buy()), "verification-failed")

    assert problem["reason"] == "permit2_allowance_required"
    buyer.paid.untouched(released=1)


def test_a_nonce_that_its_owner_gave_up_buys_nothing(buyer: UptoBuyer):
    from mpp_gateway.protocol import permit2
    from mpp_gateway.rails.evm import abi

    permit = buyer.permit()
    given_up = GIVE_UP + abi.uint_word(permit.nonce >> 8) + abi.uint_word(1 << (permit.nonce & 255))
    buyer.call(buyer.paid.key, permit2.ADDRESS, given_up)

    refused(buyer.send(buyer.payment(permit)), "verification-failed")
    buyer.paid.untouched(released=1)


# What goes wrong


def test_an_upstream_that_fails_moves_nothing_and_the_permit_stays_good(buyer: UptoBuyer):
    payment = buyer.buy()
    buyer.paid.keeper.answers("500 No", f"Settlement-Overrides: {SAID}")

    answer = buyer.send(payment)

    assert answer[0] == 500
    assert "settlement-overrides" not in answer[1]
    assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"released": 1})
    buyer.uses(SAID)
    assert buyer.send(payment)[0] == 200
    assert buyer.paid.balance() == USED


@pytest.mark.parametrize("fault", ["500", "reset", "hang"])
def test_a_facilitator_that_is_down_is_a_503_and_nothing_moves(buyer: UptoBuyer, fault: str):
    buyer.facilitator.faults["/verify"] = fault

    refused(buyer.send(buyer.buy()), "rail-unavailable", 503)

    buyer.paid.untouched(released=1)


def test_a_facilitator_that_lies_sells_nothing(buyer: UptoBuyer):
    buyer.uses(SAID)
    buyer.facilitator.faults["/settle"] = "lie"

    answer = buyer.send(buyer.buy())

    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"unknown": 1})


def test_a_transaction_of_another_permit_pays_for_nothing_else(buyer: UptoBuyer):
    """The facilitator names a transfer of the same amount, between the same two."""
    buyer.uses(SAID)
    first = settled(buyer.send(buyer.buy()))["transaction"]
    real, buyer.facilitator._submit = buyer.facilitator._submit, lambda _: named(first)

    answer = buyer.send(buyer.buy())

    buyer.facilitator._submit = real
    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert buyer.paid.balance() == USED
    assert buyer.paid.states() == {"settled": 1, "unknown": 1}


async def named(tx_hash: str) -> str:
    return tx_hash


def test_a_lost_reply_is_found_on_the_chain_with_its_amount(buyer: UptoBuyer):
    buyer.uses(SAID)
    buyer.facilitator.faults["/settle"] = "lost"

    answer = buyer.send(buyer.buy())

    assert answer[0] == 200
    assert settled(answer)["amount"] == str(USED)
    assert (buyer.paid.balance(), booked(buyer)) == (USED, [("settled", USED)])


@pytest.mark.parametrize("minor", [1, USED - 1])
def test_what_was_unknown_is_not_paid_by_less_than_was_used(buyer: UptoBuyer, minor: int):
    """The payer has its own permit settled for a trifle: a facilitator moves what it is asked."""
    buyer.uses(SAID)
    buyer.facilitator.faults["/settle"] = "500"
    permit = buyer.permit()
    payment = buyer.payment(permit)
    assert slug_of(buyer.send(payment)) == "settlement-unknown"
    assert booked(buyer) == [("unknown", PRICE)]

    buyer.call(STAND_IN_KEY, UPTO_PROXY, permit_settle(permit, minor))
    for _ in range(3):
        assert slug_of(buyer.send(payment)) == "settlement-unknown"

    assert (buyer.paid.balance(), booked(buyer)) == (minor, [("unknown", PRICE)])


@pytest.mark.parametrize("minor", [USED, USED + 1, PRICE])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_was_unknown_is_found_later_if_what_was_used_has_moved(
    buyer: UptoBuyer, minor: int, is_restarted: bool
):
    """What was used is in the books, for a gateway that was killed knows nothing else of it."""
    buyer.uses(SAID)
    buyer.facilitator.faults["/settle"] = "500"
    permit = buyer.permit()
    payment = buyer.payment(permit)
    assert slug_of(buyer.send(payment)) == "settlement-unknown"

    buyer.call(STAND_IN_KEY, UPTO_PROXY, permit_settle(permit, minor))
    if is_restarted:
        buyer.paid.stop()
        buyer.paid.start()
        buyer.paid.reaches(credited=1)
    answer = wait_until(lambda: (a := buyer.send(payment))[0] == 200 and a, "a call for it")

    assert settled(answer)["amount"] == str(minor)
    assert (buyer.paid.balance(), booked(buyer)) == (minor, [("settled", minor)])
    assert buyer.send(payment)[0] == 402


def test_a_trifle_that_the_payer_has_moved_after_a_failure_buys_nothing(buyer: UptoBuyer):
    permit = buyer.permit()
    payment = buyer.payment(permit)
    buyer.paid.keeper.answers("500 Oops")
    assert buyer.send(payment)[0] == 500
    buyer.call(STAND_IN_KEY, UPTO_PROXY, permit_settle(permit, 1))
    buyer.uses(SAID)

    assert buyer.send(payment)[0] in {402, 503}
    assert (buyer.paid.balance(), buyer.paid.hits) == (1, 1)


def test_the_same_nonce_for_a_facilitator_of_ones_own_pays_for_nothing(buyer: UptoBuyer):
    """The payer has its own facilitator move a trifle to the seller, while the call is served."""
    own, nonce = fresh_key("own facilitator"), 77
    cheat = buyer.permit(facilitator=address_of(own), nonce=nonce)
    payment = buyer.payment(buyer.permit(nonce=nonce))
    buyer.facilitator.then["/settle"] = lambda: None
    buyer.paid.keeper.opened.clear()
    buyer.uses(SAID)

    def cheats() -> str:
        wait_until(lambda: buyer.paid.hits, "the call at the upstream")
        done = buyer.call(own, UPTO_PROXY, permit_settle(cheat, 1))
        buyer.paid.keeper.opened.set()
        return done

    answer, _ = at_once([lambda: buyer.send(payment), cheats])

    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert (buyer.paid.balance(), buyer.paid.states()) == (1, {"unknown": 1})


def test_more_than_was_used_is_booked_as_the_chain_shows_it(buyer: UptoBuyer):
    buyer.uses(SAID)
    buyer.facilitator.settles_minor = PRICE

    answer = buyer.send(buyer.buy())

    assert settled(answer)["amount"] == str(PRICE)
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


def test_less_than_was_used_pays_for_nothing(buyer: UptoBuyer):
    """A buyer calls the facilitator itself, while the upstream works."""
    buyer.uses(SAID)
    buyer.facilitator.settles_minor = 1

    answer = buyer.send(buyer.buy())

    assert slug_of(answer) == "settlement-unknown"
    assert booked(buyer) == [("unknown", PRICE)]


def test_more_than_was_signed_for_cannot_move(buyer: UptoBuyer):
    buyer.facilitator.settles_minor = PRICE + 1

    answer = buyer.send(buyer.buy())

    assert answer[0] in {402, 503}
    assert buyer.paid.balance() == 0


def test_an_unknown_permit_that_expires_unused_is_released(tmp_path: Path):
    thread = new_chain()
    try:
        with upto_gateway(tmp_path, thread=thread) as buyer:
            buyer.uses(SAID)
            buyer.facilitator.faults["/settle"] = "500"
            payment = buyer.buy()
            assert slug_of(buyer.send(payment)) == "settlement-unknown"

            thread.advance(1_000)
            buyer.paid.keeper.answers("500 No")  # it is served anew: here the clock says good

            wait_until(lambda: buyer.send(payment)[0] == 500, "a release")

            assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"released": 1})
    finally:
        thread.close()


def test_a_facilitator_that_takes_the_money_when_asked_to_verify_is_paid_once(buyer: UptoBuyer):
    buyer.facilitator.faults["/verify"] = "takes"
    buyer.uses(SAID)

    answer = buyer.send(buyer.buy())

    assert answer[0] == 200
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


HASTY = """
      "GET /paid": {charge: "0.01", upto: true, timeouts: {settle_s: 1}}
"""


def test_a_settlement_that_comes_late_is_a_credit_over_what_moved(tmp_path: Path):
    """The facilitator has moved what was used, and does not say so while the route waits for it."""
    with upto_gateway(tmp_path, routes=HASTY) as buyer:
        buyer.uses(SAID)
        payment = buyer.buy()
        submit = buyer.facilitator._submit

        async def slowly(body: dict) -> str:
            await submit(body)
            return await asyncio.Event().wait()

        buyer.facilitator._submit = slowly

        assert slug_of(buyer.send(payment)) == "settlement-unknown"
        buyer.paid.reaches(credited=1)

        assert (buyer.paid.balance(), booked(buyer)) == (USED, [("credited", USED)])
        answer = buyer.send(payment)
        assert (answer[0], settled(answer)["amount"]) == (200, str(USED))
        assert buyer.paid.balance() == USED
        assert buyer.send(payment)[0] == 402
        assert not buyer.paid.crashes()


@pytest.mark.parametrize("keeps", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("step", ["upstream", "settle", "body"])
def test_who_hangs_up_on_a_call_by_use_has_had_it(buyer: UptoBuyer, step: str, keeps: bool):
    """A credit over what a small answer used would buy a dearer one for it."""
    gone, paid = threading.Event(), buyer.paid
    said = f"Settlement-Overrides: {SAID}\r\nContent-Length: {9 if step == 'body' else 1}"
    paid.keeper.raw, paid.keeper.keeps = f"HTTP/1.1 200 OK\r\n{said}\r\n\r\nx".encode(), keeps
    payment = buyer.buy()

    async def left() -> None:
        while not gone.is_set():  # noqa: ASYNC110 - set from another thread
            await asyncio.sleep(0.01)

    if step == "upstream":
        paid.keeper.before = left
    if step == "settle":
        buyer.facilitator.then["/settle"] = left
    with RawClient(paid.port) as client:
        head = f"GET /api/paid HTTP/1.1\r\nHost: x\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n"
        client.send(head.encode())
        wait_until(lambda: paid.hits, "the call at the upstream")
        if step == "settle":
            wait_until(lambda: asked(buyer.facilitator, "/settle"), "the settlement")
        if step == "body":
            assert client.head()[0] == 200
    if step != "body":
        wait_until(lambda: paid.proxy.orphans == 1, "the departure")
    gone.set()

    wait_until(lambda: [(r["state"], r["due_s"]) for r in paid.rows()] == [("settled", None)], "it")
    assert buyer.send(payment)[0] == 402
    assert (paid.balance(), paid.hits, booked(buyer)) == (USED, 1, [("settled", USED)])


def test_the_credit_of_a_cheap_use_buys_no_dear_one(buyer: UptoBuyer):
    """What a call uses may hang on a field that no payment is bound to, such as `Range`."""
    buyer.uses(SAID)
    buyer.facilitator.faults["/settle"] = "500"
    permit = buyer.permit()
    payment = buyer.payment(permit)
    assert slug_of(buyer.send(payment)) == "settlement-unknown"
    buyer.call(STAND_IN_KEY, UPTO_PROXY, permit_settle(permit, USED))

    buyer.uses(f'{{"amount":"{USED + 1}"}}')
    dear = wait_until(lambda: (a := buyer.send(payment))[0] != 503 and a, "the credit")
    assert (dear[0], slug_of(dear)) == (402, "payment-insufficient")
    assert booked(buyer) == [("credited", USED)]

    buyer.uses(SAID)
    assert buyer.send(payment)[0] == 200
    assert (buyer.paid.balance(), booked(buyer)) == (USED, [("settled", USED)])
