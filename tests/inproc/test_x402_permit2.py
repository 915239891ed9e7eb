"""x402's scheme `exact` by Permit2: a permit for the price, at a real gateway."""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.x402_permits import EXACT_PROXY, UPTO_PROXY
from tests.support.evm import address, now
from tests.support.facilitator import STAND_IN_KEY, permit_settle
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    refused,
    slug_of,
    wait_until,
)
from tests.support.upto import UptoBuyer, asked, new_chain, upto_gateway
from tests.support.x402 import X402Buyer, decoded, encoded, proof, settled, signed

STRANGER, GAS = fresh_key("stranger"), "0x" + fresh_key("gas").hex()


class PermitBuyer(UptoBuyer):
    """Buys for the price, by a permit of Permit2."""

    way = ("exact", "permit2")


@contextmanager
def permit2_gateway(tmp_path: Path, *extensions: str, **options) -> Iterator[PermitBuyer]:
    more = ", x402: true, x402_permit2: true"
    with upto_gateway(tmp_path, *extensions, method_more=more, **options) as by_use:
        yield PermitBuyer(by_use.paid)


@pytest.fixture
def buyer(tmp_path: Path) -> Iterator[PermitBuyer]:
    with permit2_gateway(tmp_path) as buyer:
        yield buyer
        assert not buyer.paid.crashes()


def booked(buyer: UptoBuyer) -> list[tuple[str, int]]:
    return [(row["state"], int(row["amount_minor"])) for row in buyer.paid.rows()]


def cheats_while_served(buyer: PermitBuyer, cheat, key: bytes, minor: int):
    """Let the call of a good permit run; meanwhile have `cheat`, of the same nonce, settled."""
    payment = buyer.payment(buyer.permit("/api/plain", nonce=cheat.nonce), "/api/plain")
    buyer.paid.keeper.opened.clear()
    buyer.paid.keeper.answers("200 OK")

    def cheats() -> str:
        wait_until(lambda: buyer.paid.hits, "the call at the upstream")
        done = buyer.call(key, cheat.proxy, permit_settle(cheat, minor))
        buyer.paid.keeper.opened.set()
        return done

    answer, _ = at_once([lambda: buyer.send(payment, "/api/plain"), cheats])
    return answer, payment


# What is offered


def test_a_permit_for_the_price_is_offered_last_and_to_version_2_alone(buyer: PermitBuyer):
    buyer.entry("/api/plain")

    plain, by_permit = buyer.required("/api/plain")["accepts"]

    assert (plain["scheme"], by_permit["scheme"]) == ("exact", "exact")
    assert "assetTransferMethod" not in plain["extra"]
    assert by_permit["extra"]["assetTransferMethod"] == "permit2"
    assert "facilitatorAddress" not in by_permit["extra"]
    assert plain["amount"] == by_permit["amount"] == str(PRICE)
    ways = [(e["scheme"], e["extra"].get("assetTransferMethod")) for e in
            buyer.required("/api/paid")["accepts"]]  # fmt: skip
    assert ways == [("upto", "permit2"), ("exact", None), ("exact", "permit2")]
    v1 = buyer.v1_required("/api/plain").get("accepts", [])
    assert all("assetTransferMethod" not in entry["extra"] for entry in v1)


@pytest.mark.parametrize("says", [404, "nothing", "another method"])
def test_nothing_is_offered_while_no_facilitator_lists_it(tmp_path: Path, says):
    with permit2_gateway(tmp_path) as buyer:
        buyer.entry("/api/plain")
        buyer.paid.stop()
        kind = {"x402Version": 2, "scheme": "exact", "network": buyer.facilitator.network}
        kind["extra"] = {"assetTransferMethod": "eip3009"}
        kinds = [kind] if says == "another method" else []
        buyer.facilitator.supports = says if says == 404 else {"kinds": kinds}
        buyer.paid.start()

        (plain,) = buyer.required("/api/plain")["accepts"]

        assert "assetTransferMethod" not in plain["extra"]


def test_a_method_that_does_not_say_so_takes_no_such_permit(tmp_path: Path):
    with upto_gateway(tmp_path) as by_use:
        by_use.entry()
        offered = by_use.required("/api/plain")["accepts"]
        assert [e["extra"].get("assetTransferMethod") for e in offered] == [None]
        entry = offered[0] | {"extra": offered[0]["extra"] | {"assetTransferMethod": "permit2"}}
        permit = by_use.permit("/api/paid", facilitator=None, spender=EXACT_PROXY)
        made = {"x402Version": 2, "payload": permit.to_payload(), "accepted": entry}

        refused(by_use.send(encoded(made), "/api/plain"), "verification-failed")

        by_use.paid.untouched()


@pytest.mark.parametrize("name", ["eip2612GasSponsoring", "erc20ApprovalGasSponsoring"])
def test_a_sponsored_allowance_is_offered_and_goes_to_the_facilitator_untouched(tmp_path, name):
    with permit2_gateway(tmp_path, name) as buyer:
        said = {"info": {"signature": "0xabc", "amount": "1"}}
        permit = buyer.permit("/api/plain")
        assert buyer.required("/api/plain")["extensions"][name]["info"]["version"] == "1"

        payment = buyer.payment(permit, "/api/plain", extensions={name: said, "other": {}})

        assert buyer.send(payment, "/api/plain")[0] == 200
        for path in ("/verify", "/settle"):
            (body,) = asked(buyer.facilitator, path)
            assert body["paymentPayload"]["extensions"] == {name: said}


# What is paid


@pytest.mark.parametrize("target", ["/api/plain", "/api/paid"])
def test_the_price_is_moved_told_and_booked_whatever_was_used(buyer: PermitBuyer, target: str):
    buyer.uses('{"amount":"4200"}')

    answer = buyer.send(buyer.buy(target), target)

    paid, said = buyer.paid, settled(answer)
    assert answer[0] == 200
    assert (paid.balance(), paid.purse(), paid.hits) == (PRICE, PURSE_MINOR - PRICE, 1)
    assert booked(buyer) == [("settled", PRICE)]
    assert (said["success"], said["payer"], "amount" in said) == (True, address(paid.key), False)
    (verified,), (moved,) = (asked(buyer.facilitator, path) for path in ("/verify", "/settle"))
    assert moved == verified
    assert moved["paymentRequirements"]["extra"]["assetTransferMethod"] == "permit2"
    assert moved["paymentRequirements"]["amount"] == str(PRICE)


# What buys nothing


def test_a_replayed_permit_buys_one_call(buyer: PermitBuyer):
    permit = buyer.permit("/api/plain")
    flipped = permit.signature[:-1] + bytes((permit.signature[-1] - 27,))

    assert buyer.send(buyer.payment(permit, "/api/plain"), "/api/plain")[0] == 200
    for again in (permit, replace(permit, signature=flipped)):
        assert buyer.send(buyer.payment(again, "/api/plain"), "/api/plain")[0] == 402

    assert (buyer.paid.balance(), buyer.paid.hits, len(buyer.paid.rows())) == (PRICE, 1, 1)


def test_ten_copies_at_once_run_the_upstream_once(buyer: PermitBuyer):
    payment = buyer.buy("/api/plain")

    answers = at_once([lambda: buyer.send(payment, "/api/plain")] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert (buyer.paid.balance(), buyer.paid.hits) == (PRICE, 1)


@pytest.mark.parametrize("first", ["exact", "upto"])
def test_one_nonce_buys_once_in_whichever_scheme(buyer: PermitBuyer, first: str):
    by_use = UptoBuyer(buyer.paid)
    made = {
        "exact": buyer.payment(buyer.permit(nonce=77)),
        "upto": by_use.payment(by_use.permit(nonce=77)),
    }

    assert buyer.send(made.pop(first))[0] == 200
    (other,) = made.values()
    assert buyer.send(other)[0] == 402

    assert (buyer.paid.balance(), buyer.paid.hits, len(buyer.paid.rows())) == (PRICE, 1, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_minor": PRICE - 1},
        {"amount_minor": PRICE + 1},
        {"spender": parse_address(address(fresh_key("spender")))},
        {"spender": UPTO_PROXY},
        {"token": parse_address(address(fresh_key("token")))},
        {"to": parse_address(address(fresh_key("to")))},
        {"chain_id": 1},
        {"valid_after": now() + 10_000},
        {"deadline": now() - 1},
        {"owner": address_of(STRANGER)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_permit_for_other_terms_is_refused_before_it_is_stored(buyer: PermitBuyer, changes):
    answer = buyer.send(buyer.buy("/api/plain", **changes), "/api/plain")

    assert answer[0] == 402
    assert buyer.facilitator.asked == []
    buyer.paid.untouched()


def test_a_permit_signed_for_use_is_none_for_the_price(buyer: PermitBuyer):
    by_use = UptoBuyer(buyer.paid).permit()
    refused(buyer.send(buyer.payment(by_use)), "verification-failed")
    buyer.paid.untouched()


def test_version_1_cannot_pay_by_permit(buyer: PermitBuyer):
    permit = buyer.permit("/api/plain")
    made = {
        "x402Version": 1,
        "scheme": "exact",
        "network": buyer.facilitator.network,
        "payload": permit.to_payload(),
    }

    refused(buyer.send_v1(encoded(made), "/api/plain"), "verification-failed")
    buyer.paid.untouched()


def test_a_cheaper_routes_permit_buys_nothing_dearer(buyer: PermitBuyer):
    cheap = decoded(buyer.buy("/api/plain"))

    refused(buyer.send(encoded(cheap), "/api/dear"), "payment-insufficient")
    buyer.paid.untouched()


def test_an_empty_purse_buys_nothing(buyer: PermitBuyer):
    payment = buyer.buy("/api/plain")
    buyer.paid.move_money_away()

    refused(buyer.send(payment, "/api/plain"), "payment-insufficient")
    buyer.paid.untouched(released=1)


@pytest.mark.parametrize("minor", [0, PRICE, 2 * PRICE])
def test_what_permit2_may_move_bounds_the_calls_at_once(buyer: PermitBuyer, minor: int):
    """By use as for the price: the upstream works for no more than can be paid."""
    ways = buyer, UptoBuyer(buyer.paid)
    payments = [way.buy() for way in ways for _ in range(3)]
    buyer.approve(minor=minor)
    buyer.paid.keeper.opened.clear()

    def opens() -> None:
        calls = max(1, minor // PRICE)
        wait_until(lambda: buyer.paid.states().get("released") == 6 - calls, "refusals")
        wait_until(lambda: buyer.paid.hits == calls, "calls")
        buyer.paid.keeper.opened.set()

    *answers, _ = at_once([*(lambda p=p: buyer.send(p) for p in payments), opens])

    assert buyer.paid.hits == max(1, minor // PRICE)
    assert [status for status, *_ in answers].count(200) == minor // PRICE
    assert buyer.paid.balance() == minor


# What goes wrong


def test_an_upstream_that_fails_moves_nothing_and_the_permit_stays_good(buyer: PermitBuyer):
    payment = buyer.buy("/api/plain")
    buyer.paid.keeper.answers("500 No")

    assert buyer.send(payment, "/api/plain")[0] == 500
    assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"released": 1})
    buyer.paid.keeper.answers("200 OK")
    assert buyer.send(payment, "/api/plain")[0] == 200
    assert buyer.paid.balance() == PRICE


@pytest.mark.parametrize("fault", ["500", "reset", "hang"])
def test_a_facilitator_that_is_down_is_a_503_and_nothing_moves(buyer: PermitBuyer, fault: str):
    payment = buyer.buy("/api/plain")
    buyer.facilitator.faults["/verify"] = fault

    refused(buyer.send(payment, "/api/plain"), "rail-unavailable", 503)
    buyer.paid.untouched(released=1)


def test_a_facilitator_that_lies_sells_nothing(buyer: PermitBuyer):
    buyer.facilitator.faults["/settle"] = "lie"

    answer = buyer.send(buyer.buy("/api/plain"), "/api/plain")

    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"unknown": 1})


def test_a_transaction_of_another_permit_pays_for_nothing_else(buyer: PermitBuyer):
    first = settled(buyer.send(buyer.buy("/api/plain"), "/api/plain"))["transaction"]

    async def named(_: dict) -> str:
        return first

    real, buyer.facilitator._submit = buyer.facilitator._submit, named
    answer = buyer.send(buyer.buy("/api/plain"), "/api/plain")
    buyer.facilitator._submit = real

    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert (buyer.paid.balance(), buyer.paid.states()) == (PRICE, {"settled": 1, "unknown": 1})


def test_a_lost_reply_is_found_on_the_chain(buyer: PermitBuyer):
    buyer.facilitator.faults["/settle"] = "lost"

    answer = buyer.send(buyer.buy("/api/plain"), "/api/plain")

    assert answer[0] == 200
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])


def test_what_was_unknown_is_paid_whoever_settled_it_through_the_proxy(buyer: PermitBuyer):
    buyer.facilitator.faults["/settle"] = "500"
    permit = buyer.permit("/api/plain")
    payment = buyer.payment(permit, "/api/plain")
    assert slug_of(buyer.send(payment, "/api/plain")) == "settlement-unknown"

    buyer.call(STRANGER, EXACT_PROXY, permit_settle(permit, PRICE))
    wait_until(lambda: buyer.send(payment, "/api/plain")[0] == 200, "a call for it")

    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("settled", PRICE)])
    assert buyer.send(payment, "/api/plain")[0] == 402


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_a_trifle_moved_with_the_same_nonce_pays_for_nothing(buyer: PermitBuyer, scheme: str):
    """Signed for less, or for use and settled by the seller's own facilitator, while served."""
    if scheme == "exact":
        cheat, key = buyer.permit("/api/plain", nonce=77, amount_minor=1), STRANGER
    else:
        cheat, key = UptoBuyer(buyer.paid).permit(nonce=77), STAND_IN_KEY

    answer, payment = cheats_while_served(buyer, cheat, key, 1)

    assert (answer[0], slug_of(answer)) == (503, "settlement-unknown")
    assert slug_of(buyer.send(payment, "/api/plain")) == "settlement-unknown"
    assert (buyer.paid.balance(), buyer.paid.states()) == (1, {"unknown": 1})


def test_what_is_not_settled_before_its_end_is_released(tmp_path: Path):
    thread = new_chain()
    try:
        with permit2_gateway(tmp_path, thread=thread) as buyer:
            buyer.facilitator.faults["/settle"] = "500"
            payment = buyer.buy("/api/plain")
            assert slug_of(buyer.send(payment, "/api/plain")) == "settlement-unknown"

            thread.advance(1_000)
            buyer.paid.keeper.answers("500 No")  # it is served anew: here the clock says good

            wait_until(lambda: buyer.send(payment, "/api/plain")[0] == 500, "a release")
            assert (buyer.paid.balance(), buyer.paid.states()) == (0, {"released": 1})
    finally:
        thread.close()


def test_a_permit_that_was_settled_elsewhere_buys_nothing(buyer: PermitBuyer):
    permit = buyer.permit("/api/plain")
    buyer.call(STRANGER, EXACT_PROXY, permit_settle(permit, PRICE))

    answer = buyer.send(buyer.payment(permit, "/api/plain"), "/api/plain")

    assert (answer[0], buyer.paid.hits) == (402, 0)
    assert "settled" not in buyer.paid.states()


# What is open when the configuration changes


def with_own_key(config: str) -> str:
    """Return the configuration of a gateway that settles itself by now, and takes no x402."""
    settles = re.sub(r'submit: {facilitator: "[^"]*"}', f'submit: {{private_key: "{GAS}"}}', config)
    return settles.replace(", x402: true, x402_permit2: true", "").replace(", upto: true", "")


@pytest.mark.parametrize("scheme", ["exact", "upto"])
def test_what_a_facilitator_left_open_is_found_by_a_gateway_with_a_key(buyer, scheme: str):
    """Nobody of today's configuration would have settled it."""
    by = UptoBuyer(buyer.paid) if scheme == "upto" else buyer
    buyer.facilitator.faults["/settle"] = "500"
    permit = by.permit()
    assert slug_of(buyer.send(by.payment(permit))) == "settlement-unknown"
    buyer.paid.stop()
    settler = STAND_IN_KEY if scheme == "upto" else STRANGER
    buyer.call(settler, permit.proxy, permit_settle(permit, PRICE))

    buyer.paid.start(with_own_key(buyer.paid.config))

    buyer.paid.reaches(credited=1)
    assert (buyer.paid.balance(), booked(buyer)) == (PRICE, [("credited", PRICE)])
    assert not buyer.paid.crashes()


def test_what_was_left_open_and_ended_unused_is_released_by_a_gateway_with_a_key(tmp_path: Path):
    thread = new_chain()
    try:
        with permit2_gateway(tmp_path, thread=thread) as buyer:
            buyer.facilitator.faults["/settle"] = "500"
            assert slug_of(buyer.send(buyer.buy())) == "settlement-unknown"
            buyer.paid.stop()
            thread.advance(1_000)

            buyer.paid.start(with_own_key(buyer.paid.config))

            buyer.paid.reaches(released=1)
    finally:
        thread.close()


@pytest.mark.parametrize("said", [1.5, 1e30, functools.reduce(lambda v, _: [v], range(29), "x")])
def test_an_extension_that_cannot_be_passed_on_is_a_400(buyer: PermitBuyer, said):
    """A facilitator would be asked with it, and an amount is never a fraction on our wire."""
    extensions = {"eip2612GasSponsoring": {"info": said}}

    refused(
        buyer.send(buyer.payment(buyer.permit(), extensions=extensions)), "malformed-payment", 400
    )

    buyer.paid.untouched()


def test_one_id_pays_once_in_whichever_scheme(buyer: PermitBuyer):
    """Signed by use, for the price, and by an authorization; at once, and after."""
    by_use, exact = UptoBuyer(buyer.paid), X402Buyer(buyer.paid)
    entry = next(e for e in buyer.required()["accepts"] if "assetTransferMethod" not in e["extra"])
    plain = {"x402Version": 2, "accepted": entry, "payload": proof(signed(entry, buyer.paid.key))}
    extensions = {"payment-identifier": {"info": {"id": "pay_0123456789abcdef"}}}
    made = [way.payment(way.permit(), extensions=extensions) for way in (by_use, buyer)]
    made.append(encoded(plain | {"extensions": extensions}))
    buyer.uses('{"amount":"4200"}')

    answers = at_once([lambda text=text: exact.send(text) for text in made])

    assert sorted(status for status, *_ in answers) == [200, 409, 409]
    paid = buyer.paid.balance()
    assert paid in {4_200, PRICE}
    for text, first in zip(made, answers, strict=True):
        again = exact.send(text)
        assert (again[0], first[0]) in {(200, 200), (409, 409)}
    assert (buyer.paid.balance(), buyer.paid.hits) == (paid, 1)
