"""EVM, `permit2`: the buyer signs for our key, and Permit2 moves its money once."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.protocol import permit2
from mpp_gateway.rails.evm import abi
from tests.support.evm import now
from tests.support.evm_buyer import later
from tests.support.evm_permits import GIVE_UP, PermitShop, permit_shop
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    at_once,
    fresh_key,
    receipt_of,
    refused,
)

QUICK = "connect_s: 1, first_byte_s: 5, settle_s: 3"
SEND, RECEIPT = "eth_sendRawTransaction", "eth_getTransactionReceipt"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PermitShop]:
    with permit_shop(tmp_path, timeouts=QUICK) as shop:
        yield shop


def with_permit(credential, **members):
    payload = credential.payload
    return replace(credential, payload=payload | {"permit": payload["permit"] | members})


@pytest.mark.parametrize("form", [0, 1], ids=["version 00", "version 01"])
@pytest.mark.parametrize("json_hash", [False, True], ids=["packed", "json"])
def test_a_permit_pays_its_exact_price_in_every_form_of_the_draft(shop, form, json_hash):
    challenge = shop.challenge()

    response = shop.send(shop.permit(challenge, form=form, json_hash=json_hash))

    assert response[0] == 200
    assert (shop.balance(), shop.purse()) == (PRICE, PURSE_MINOR - PRICE)
    assert (shop.hits, shop.states()) == (1, {"settled": 1})
    assert shop.chain.transaction(receipt_of(response).reference)["status"] == "0x1"
    details = challenge.request_object["methodDetails"]
    assert details["credentialTypes"] == ["permit2"]
    assert details["permit2Address"] == checksum(permit2.ADDRESS)
    assert not shop.crashes()


def test_a_replayed_permit_buys_one_call_however_it_is_written(shop: PermitShop):
    credential = shop.buy()
    permit = credential.payload["permit"]
    v = int(credential.payload["signature"][-2:], 16)
    again = [
        credential,
        with_permit(credential, nonce="0" + permit["nonce"][:77]),
        replace(
            credential,
            payload=credential.payload
            | {"signature": credential.payload["signature"][:-2] + f"{v - 27:02x}"},
        ),
    ]

    assert shop.send(credential)[0] == 200
    for copy in again:
        assert shop.send(copy)[0] == 402

    assert (shop.balance(), shop.hits, len(shop.rows())) == (PRICE, 1, 1)


def test_ten_copies_at_once_run_the_upstream_once(shop: PermitShop):
    credential = shop.buy()

    answers = at_once([lambda: shop.send(credential)] * 10)

    assert [status for status, *_ in answers].count(200) == 1
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_one_nonce_pays_for_one_call_whatever_else_is_signed(shop: PermitShop):
    nonce = 7

    assert shop.send(shop.buy(nonce=nonce))[0] == 200
    refused(shop.send(shop.buy(nonce=nonce)), "invalid-challenge")

    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_permit_for_another_payment_is_refused_before_it_is_claimed(shop: PermitShop):
    challenge, other = shop.challenge(), shop.challenge()
    wrong = "verification-failed"
    cases = {
        "less": ({"requested": PRICE - 1}, "payment-insufficient"),
        "more": ({"requested": PRICE + 1, "permitted": PRICE + 1}, wrong),
        "more than is permitted": ({"permitted": PRICE - 1}, wrong),
        "to a stranger": ({"to": b"\x42" * 20}, wrong),
        "another token": ({"token": b"\x43" * 20}, wrong),
        "another spender": ({"spender": b"\x44" * 20}, wrong),
        "another challenge": ({"challenge_hash": b"\x45" * 32}, wrong),
        "a deadline in a year": ({"deadline": now() + 10**7}, wrong),
    }

    for name, (changes, slug) in cases.items():
        assert refused(shop.send(shop.permit(challenge, **changes)), slug), name
    stolen = replace(shop.permit(challenge), challenge=other)
    refused(shop.send(stolen), wrong)

    shop.untouched()


def test_a_permit_of_somebody_else_or_another_chain_is_refused(shop: PermitShop):
    good = shop.buy()
    assert good.source is not None
    stranger = shop.permit(good.challenge, fresh_key("stranger"))

    for source in (None, "", "did:key:z", stranger.source, good.source.replace("31337", "1")):
        refused(shop.send(replace(good, source=source)), "verification-failed")

    shop.untouched()


def test_a_payload_that_is_no_permit_is_refused(shop: PermitShop):
    good = shop.buy()
    payload = good.payload
    one = payload["transferDetails"]
    wrong = [
        payload | {"permit": None},
        payload | {"permit": payload["permit"] | {"permitted": payload["permit"]["permitted"][0]}},
        payload | {"transferDetails": []},
        payload | {"transferDetails": one * 2},
        payload | {"transferDetails": ["x"]},
        payload | {"permit": payload["permit"] | {"nonce": 5}},
        payload | {"permit": payload["permit"] | {"deadline": "-1"}},
        payload | {"permit": payload["permit"] | {"nonce": str(2**256)}},
        payload | {"witness": {}},
        payload | {"witness": payload["witness"] | {"externalId": "order-1"}},
        payload | {"signature": "0x12"},
        payload | {"type": "authorization"},
    ]

    for members in wrong:
        refused(shop.send(replace(good, payload=members)), "invalid-payload")

    shop.untouched()


def test_several_transfers_are_none_that_this_price_asks_for(shop: PermitShop):
    good = shop.buy()
    payload = good.payload
    twice = payload | {
        "transferDetails": payload["transferDetails"] * 2,
        "permit": payload["permit"] | {"permitted": payload["permit"]["permitted"] * 2},
    }

    refused(shop.send(replace(good, payload=twice)), "verification-failed")

    shop.untouched()


def test_a_permit_that_has_run_out_is_refused(shop: PermitShop):
    refused(shop.send(shop.buy(deadline=now() - 1)), "verification-failed")
    credential = shop.buy()
    later(shop, 400)
    refused(shop.send(credential), "payment-expired")

    assert (shop.balance(), shop.hits) == (0, 0)


@pytest.mark.parametrize("minor", [0, PRICE - 1])
def test_what_permit2_may_not_move_pays_for_nothing(shop: PermitShop, minor: int):
    shop.approve(minor)

    problem = refused(shop.send(shop.buy()), "payment-insufficient")

    assert "Approve the token for Permit2" in problem["hint"]
    shop.untouched(released=1)


def test_what_permit2_may_move_bounds_the_calls_at_once(shop: PermitShop):
    """Ten calls for the allowance of one would have the seller work nine times for nothing."""
    shop.approve(PRICE)
    credentials = [shop.buy() for _ in range(5)]

    answers = at_once([lambda c=c: shop.send(c) for c in credentials])

    assert [status for status, *_ in answers].count(200) == 1
    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_payer_without_the_money_is_refused(shop: PermitShop):
    shop.move_money_away()

    refused(shop.send(shop.buy()), "payment-insufficient")

    shop.untouched(released=1)


def test_an_upstream_that_fails_leaves_the_money_with_the_buyer(shop: PermitShop):
    credential = shop.buy()
    shop.keeper.answers("503 Down")

    assert shop.send(credential)[0] == 503
    assert (shop.balance(), shop.states()) == (0, {"released": 1})
    assert SEND not in shop.node.calls
    shop.keeper.answers("200 OK")

    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_a_nonce_that_is_given_up_while_the_upstream_works_buys_no_answer(shop: PermitShop):
    nonce = 1_000
    credential = shop.buy(nonce=nonce)
    payload = GIVE_UP + abi.uint_word(nonce >> 8) + abi.uint_word(1 << (nonce & 0xFF))

    async def give_up() -> None:
        import asyncio

        await asyncio.to_thread(shop.call, shop.key, permit2.ADDRESS, payload)

    shop.keeper.before = give_up
    refused(shop.send(credential), "verification-failed")

    assert (shop.balance(), shop.hits, shop.states()) == (0, 1, {"released": 1})
    refused(shop.send(credential), "verification-failed")


@pytest.mark.parametrize("fault", ["500", "reset", "garbage", "error: busy", "hang"])
def test_a_node_that_is_down_takes_no_money_and_asks_for_none(shop: PermitShop, fault: str):
    credential = shop.buy()

    shop.node.faults["eth_call"] = fault
    refused(shop.send(credential), "rail-unavailable", 503)
    assert (shop.balance(), shop.hits, shop.states()) == (0, 0, {"released": 1})
    shop.node.faults.clear()

    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_an_answer_that_is_lost_after_the_transaction_went_out_charges_once(shop: PermitShop):
    credential = shop.buy()
    shop.node.faults[SEND] = "lost"

    assert shop.send(credential)[0] == 200
    refused(shop.send(credential), "invalid-challenge")

    assert (shop.balance(), shop.hits) == (PRICE, 1)


def test_a_payment_whose_block_could_not_be_asked_for_is_found_after_a_restart(shop: PermitShop):
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "500"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    assert (shop.balance(), shop.states()) == (PRICE, {"unknown": 1})
    shop.stop()
    shop.node.faults.clear()
    shop.start()

    shop.reaches(credited=1)
    assert shop.send(credential)[0] == 200
    assert (shop.balance(), shop.hits) == (PRICE, 2)


def test_a_permit_of_a_cheap_route_buys_no_dear_one(shop: PermitShop):
    refused(shop.send(shop.buy(), "/api/dear"), "invalid-challenge")
    shop.untouched()


def test_gas_above_the_ceiling_takes_no_permit(tmp_path: Path):
    with permit_shop(tmp_path, timeouts=QUICK, submit_more=', max_fee_gwei: "0.000000001"') as shop:
        assert shop.ask()[0] == 503

        shop.untouched()


def test_a_route_takes_permits_and_authorizations(tmp_path: Path):
    with permit_shop(tmp_path, "permit2, authorization") as shop:
        assert shop.send(shop.buy())[0] == 200
        assert shop.send(shop.sign(shop.challenge()))[0] == 200

        assert (shop.balance(), shop.states()) == (2 * PRICE, {"settled": 2})


PARTNER, AGENT = "0x" + "c1" * 20, "0x" + "c2" * 20
SPLITS = (
    f', splits: [{{recipient: "{PARTNER}", percent: "2.5"}},'
    f' {{recipient: "{AGENT}", percent: "10"}}]'
)


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[PermitShop]:
    with permit_shop(tmp_path, more=SPLITS, timeouts=QUICK) as shop:
        yield shop


def test_splits_are_paid_together_with_the_rest_of_the_price(sharing: PermitShop):
    before = [sharing.chain.balance(owner) for owner in (PARTNER, AGENT)]
    challenge = sharing.challenge()

    assert sharing.send(sharing.permit(challenge))[0] == 200

    after = [sharing.chain.balance(owner) for owner in (PARTNER, AGENT)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [250, 1_000]
    assert (sharing.balance(), sharing.purse()) == (PRICE - 1_250, PURSE_MINOR - PRICE)
    assert challenge.request_object["methodDetails"]["splits"] == [
        {"amount": "250", "recipient": checksum(bytes.fromhex(PARTNER[2:]))},
        {"amount": "1000", "recipient": checksum(bytes.fromhex(AGENT[2:]))},
    ]
    assert sharing.states() == {"settled": 1}


def test_who_gets_a_share_cannot_be_left_out_or_changed(sharing: PermitShop):
    challenge = sharing.challenge()
    good = sharing.permit(challenge)
    details = good.payload["transferDetails"]
    permitted = good.payload["permit"]["permitted"]

    def changed(order):
        permit = good.payload["permit"] | {"permitted": [permitted[i] for i in order]}
        members = {"permit": permit, "transferDetails": [details[i] for i in order]}
        return replace(good, payload=good.payload | members)

    for order in ([0], [0, 1], [0, 2, 1], [1, 0, 2], [0, 1, 2, 2]):
        answer = sharing.send(changed(order))
        assert answer[0] == 402, order
    thief = [*details[:2], details[2] | {"to": "0x" + "66" * 20}]
    answer = sharing.send(replace(good, payload=good.payload | {"transferDetails": thief}))
    refused(answer, "verification-failed")
    sharing.untouched()

    assert sharing.send(good)[0] == 200


def test_shares_of_a_payment_whose_answer_was_lost_are_found_after_a_restart(sharing: PermitShop):
    credential = sharing.buy()

    def no_receipts() -> None:
        sharing.node.faults[RECEIPT] = "500"

    sharing.node.then[SEND] = no_receipts
    refused(sharing.send(credential), "settlement-unknown", 503)
    sharing.stop()
    sharing.node.faults.clear()
    sharing.start()

    sharing.reaches(credited=1)
    assert sharing.send(credential)[0] == 200
    assert sharing.balance() == PRICE - 1_250


def test_a_payment_whose_transaction_is_not_known_any_more_is_found_on_the_chain(
    shop: PermitShop,
):
    """What a node has denied to have taken is erased here, and may be in a block all the same."""
    credential = shop.buy()

    def no_receipts() -> None:
        shop.node.faults[RECEIPT] = "500"

    shop.node.then[SEND] = no_receipts
    refused(shop.send(credential), "settlement-unknown", 503)
    shop.stop()
    with closing(sqlite3.connect(shop.store)) as db:
        db.execute("DELETE FROM broadcasts")
        db.commit()
    shop.node.faults.clear()
    shop.start()

    shop.reaches(credited=1)
    assert shop.send(credential)[0] == 200
    assert shop.balance() == PRICE


def test_what_a_key_has_left_open_is_found_by_a_gateway_with_another_or_none(shop: PermitShop):
    """Whose transactions count is what the store says, not today's configuration."""
    configs = (
        re.sub(r'private_key: "[^"]*"', f'private_key: "0x{fresh_key("gas").hex()}"', shop.config),
        re.sub(r'private_key: "[^"]*"', 'facilitator: "http://127.0.0.1:9"', shop.config).replace(
            "credential_types: [permit2]", "credential_types: [authorization]"
        ),
    )
    credentials = [shop.buy() for _ in configs]
    for number, (config, credential) in enumerate(zip(configs, credentials, strict=True)):
        shop.node.then[SEND] = lambda: shop.node.faults.update({RECEIPT: "500"})
        refused(shop.send(credential), "settlement-unknown", 503)
        shop.stop()
        with closing(sqlite3.connect(shop.store)) as db:
            db.execute("DELETE FROM broadcasts")
            db.commit()
        shop.node.faults.clear()
        shop.start(config)

        shop.reaches(credited=number + 1)
        assert not shop.crashes()
        shop.stop()
        shop.start()

    for credential in credentials:
        assert shop.send(credential)[0] == 200
    assert shop.balance() == len(configs) * PRICE
