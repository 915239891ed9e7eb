"""The rail without a gateway: what it says of a payment, by what its node says."""

import asyncio
from dataclasses import replace

import pytest

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.attribution import memo_of
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.protocol.tempo_transaction import (
    EXPIRING_NONCE_KEY,
    Call,
    TempoTransaction,
    Unsigned,
)
from mpp_gateway.rails.base import Presented, RailMisconfigured, Settlement
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.tempo.chain import TempoNode, TxReceipt
from mpp_gateway.rails.tempo.request import (
    ProofId,
    Pull,
    Push,
    Share,
    TempoSettings,
    Terms,
    ZeroProof,
    purse,
)
from mpp_gateway.rails.tempo.seller import LAG_S, TempoRail
from mpp_gateway.rails.tempo.tip20 import MEMO_TOPIC, Log, Movement, address_word

TOKEN, PAYEE, PARTNER = (bytes((n,)) * 20 for n in (0x20, 2, 3))
KEY = keccak256(b"a buyer")
PAYER = address_of(KEY)
CHALLENGE, REALM, HASH = "challenge-123", "api.example.com", "0x" + "ab" * 32
END_S, PRICE = 1_000, 10_000
SETTINGS = TempoSettings(42431, TOKEN, PAYEE, settle_s=1)
SCHEME = PaymentScheme(ChallengeKeys.from_secrets(["a secret of at least thirty-two bytes"]))
RECORD = PaymentRecord(
    str(ProofId(42431, HASH, CHALLENGE)),
    purse(42431, TOKEN, PAYER),
    purse(42431, TOKEN, PAYEE),
    PRICE,
    END_S,
    CHALLENGE,
)


class Node:
    """Answers what the test says; an exception is raised."""

    def __init__(self, **answers) -> None:
        self.answers = {"time_s": 0, "receipt": None, "chain_id": 42431, "decimals": 6} | answers
        self.asked = []

    def __getattr__(self, name):
        async def answer(*_):
            self.asked.append(name)
            found = self.answers.get(name)
            if isinstance(found, Exception):
                raise found
            return found

        return answer


def rail(settings=SETTINGS, **answers) -> TempoRail:
    return TempoRail("tempo", settings, SCHEME, Node(**answers))


def receipt(**changes) -> TxReceipt:
    main = replace(Movement(PAYER, PAYEE, PRICE, memo_of(CHALLENGE, REALM)), **changes)
    topics = (MEMO_TOPIC, address_word(main.sender), address_word(main.recipient), main.memo)
    return TxReceipt(True, (Log(TOKEN, topics, main.amount_minor.to_bytes(32)),), 1)


def look_up(record=RECORD, settings=SETTINGS, **answers):
    return asyncio.run(rail(settings, **answers).look_up(record, 0))


def test_a_mined_payment_is_settled_and_named():
    outcome = look_up(receipt=receipt())

    assert (outcome.state, outcome.reference) == (Settlement.SETTLED, HASH)
    assert outcome.headers[0][0] == "Payment-Receipt"


@pytest.mark.parametrize(
    "found",
    [
        TxReceipt(False, receipt().logs, 1),
        TxReceipt(True, (), 1),
        receipt(sender=PARTNER),
        receipt(recipient=PARTNER),
        receipt(memo=memo_of("another", REALM)),
    ],
)
def test_a_mined_transaction_that_is_no_payment_is_refused(found):
    assert look_up(receipt=found).state is Settlement.REFUSED


def test_a_payment_under_other_shares_is_left_to_a_person():
    shared = replace(SETTINGS, shares=(Share(PARTNER, 250),))

    outcome = look_up(settings=shared, receipt=receipt())

    assert (outcome.state, outcome.may_be_paid) == (Settlement.UNKNOWN, True)


@pytest.mark.parametrize("late_s", [-1, 0, LAG_S - 1])
def test_a_missing_receipt_proves_nothing_before_the_end_and_a_nodes_lag(late_s: int):
    assert look_up(time_s=END_S + late_s).state is Settlement.UNKNOWN


def test_a_missing_receipt_after_the_end_is_certain():
    assert look_up(time_s=END_S + LAG_S).state is Settlement.REFUSED


@pytest.mark.parametrize("error", [RpcFailed("down"), RpcRefused(-32000, "busy")])
@pytest.mark.parametrize("asked", ["receipt", "time_s"])
def test_a_node_that_does_not_answer_leaves_it_open(error, asked):
    outcome = look_up(**{asked: error})

    assert (outcome.state, outcome.may_be_paid) == (Settlement.UNKNOWN, True)


def test_a_payment_with_another_token_is_not_judged_by_this_one():
    elsewhere = replace(RECORD, payee=purse(42431, PARTNER, PAYEE))

    assert look_up(elsewhere, time_s=END_S + LAG_S).state is Settlement.UNKNOWN


def test_nothing_moves_for_a_price_of_zero_so_nothing_is_looked_for():
    zero = replace(RECORD, proof_id=str(ProofId(42431, None, CHALLENGE)), amount_minor=0)

    assert look_up(zero, receipt=RpcFailed("down")).state is Settlement.REFUSED


def pulled() -> Presented:
    main = Movement(PAYER, PAYEE, PRICE, memo_of(CHALLENGE, REALM))
    unsigned = Unsigned(
        42431, 1, 10**9, 10**6, (Call(TOKEN, 0, main.data),), EXPIRING_NONCE_KEY, 0, END_S
    )
    transaction = TempoTransaction.decode(unsigned.signed(sign(unsigned.digest, KEY)))
    terms = Terms(CHALLENGE, REALM, (PAYEE, PRICE), ())
    offer = rail().offer(Amount(PRICE, Asset("usd", 6)), None, None)
    return Presented(
        "tempo", offer, RECORD.proof_id, RECORD.account, RECORD.payee, PRICE, END_S,
        CHALLENGE, Pull(transaction, terms),
    )  # fmt: skip


def test_what_reached_no_node_is_as_good_as_before():
    refused = RpcFailed("eth_sendRawTransaction: nobody there", sent=False)

    outcome = asyncio.run(rail(send=refused).settle(pulled(), PRICE, 0))

    assert (outcome.state, outcome.is_untried) == (Settlement.REFUSED, True)


def test_a_closed_port_is_known_to_have_got_nothing():
    async def settled():
        node = TempoNode("http://127.0.0.1:9", TOKEN, 2)
        try:
            return await TempoRail("tempo", SETTINGS, SCHEME, node).settle(pulled(), PRICE, 0)
        finally:
            await node.close()

    assert asyncio.run(settled()).is_untried


def test_no_other_amount_is_settled():
    with pytest.raises(ValueError, match="no other"):
        asyncio.run(rail().settle(pulled(), PRICE - 1, 0))


def test_a_refund_is_refused():
    assert asyncio.run(rail().refund(RECORD, 0)).state is Settlement.REFUSED
    assert not rail().capabilities.can_refund


def test_what_was_signed_is_in_no_text():
    presented = pulled()

    assert presented.evidence.transaction.raw.hex() not in repr(presented.evidence)
    assert "transaction" not in repr(presented.evidence)
    assert repr(ZeroProof()) == "ZeroProof()"


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"chain_id": 4217}, "chain_id is 42431, the node at rpc_url says 4217"),
        ({"decimals": 18}, "is not a TIP-20 token of 6 decimals"),
        ({"decimals": RpcRefused(3, "execution reverted")}, "is not a TIP-20 token"),
    ],
)
def test_a_configuration_that_the_chain_contradicts_is_said_at_the_start(answers, why: str):
    with pytest.raises(RailMisconfigured, match=why):
        asyncio.run(rail(**answers).self_check())


@pytest.mark.parametrize("work", ["self_check", "maintain"])
def test_a_node_that_is_down_is_a_rail_that_is_not_there(work: str):
    down = rail(chain_id=RpcFailed("down"), time_s=RpcFailed("down"))

    with pytest.raises(RailUnavailable):
        asyncio.run(down.self_check() if work == "self_check" else down.maintain(0))


@pytest.mark.parametrize("succeeded", [True, False])
def test_a_transaction_that_failed_is_not_believed_whatever_it_logged(succeeded: bool):
    pushed = replace(pulled(), evidence=Push(HASH, PAYER, pulled().evidence.terms))
    found = TxReceipt(succeeded, receipt().logs, 1)
    verifying = rail(receipt=found).verify(pushed, 0)

    if succeeded:
        assert asyncio.run(verifying).paid.state is Settlement.SETTLED
        return
    with pytest.raises(VerificationFailed, match="failed"):
        asyncio.run(verifying)
