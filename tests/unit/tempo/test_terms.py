"""What counts as the payment of a challenge, in calls and in logs."""

from dataclasses import replace

import pytest

from mpp_gateway.protocol.attribution import memo_of
from mpp_gateway.protocol.tempo_transaction import Call
from mpp_gateway.rails.tempo.request import ProofId, Share, Terms, parse_source
from mpp_gateway.rails.tempo.tip20 import (
    MEMO_TOPIC,
    TRANSFER_TOPIC,
    Log,
    Movement,
    address_word,
    movements,
)

TOKEN, PAYER, PAYEE, PARTNER = (bytes((n,)) * 20 for n in (0x20, 1, 2, 3))
REALM, CHALLENGE = "api.example.com", "challenge-123"
MEMO = memo_of(CHALLENGE, REALM)
MAIN = Movement(PAYER, PAYEE, 900, MEMO)
SHARE = Movement(PAYER, PARTNER, 100)
TERMS = Terms(CHALLENGE, REALM, (PAYEE, 900), ((PARTNER, 100),))


def logs(*moved: Movement, token: bytes = TOKEN) -> tuple[Log, ...]:
    """Return what the token logs: a transfer with a memo logs two events."""
    found = []
    for movement in moved:
        ends = (address_word(movement.sender), address_word(movement.recipient))
        data = movement.amount_minor.to_bytes(32)
        found.append(Log(token, (TRANSFER_TOPIC, *ends), data))
        if movement.memo is not None:
            found.append(Log(token, (MEMO_TOPIC, *ends, movement.memo), data))
    return tuple(found)


def test_a_transfer_with_a_memo_is_one_movement_not_two():
    assert tuple(movements(logs(MAIN, SHARE), TOKEN)) == (MAIN, SHARE)


def test_a_memo_event_alone_is_a_movement_too():
    assert tuple(movements(logs(MAIN)[1:], TOKEN)) == (MAIN,)


def test_a_plain_transfer_beside_one_with_a_memo_is_counted():
    plain = replace(MAIN, memo=None)

    assert tuple(movements(logs(plain, MAIN), TOKEN)) == (plain, MAIN)


def test_logs_of_another_token_are_nothing():
    assert not tuple(movements(logs(MAIN, token=b"\x21" * 20), TOKEN))


@pytest.mark.parametrize("order", [(MAIN, SHARE), (SHARE, MAIN)])
def test_the_order_of_the_transfers_does_not_matter(order):
    assert TERMS.is_paid_by(order, PAYER)
    assert TERMS.is_exactly(order)


@pytest.mark.parametrize(
    "moved",
    [
        (),
        (MAIN,),
        (SHARE,),
        (replace(MAIN, amount_minor=899), SHARE),
        (replace(MAIN, amount_minor=901), SHARE),
        (replace(MAIN, recipient=PARTNER), SHARE),
        (replace(MAIN, sender=PARTNER), SHARE),
        (MAIN, replace(SHARE, sender=PAYEE)),
        (MAIN, replace(SHARE, amount_minor=99)),
        (replace(MAIN, memo=None), SHARE),
        (replace(MAIN, memo=b"\xab" * 32), SHARE),
        (replace(MAIN, memo=memo_of("another", REALM)), SHARE),
        (replace(MAIN, memo=memo_of(CHALLENGE, "other.example")), SHARE),
    ],
)
def test_anything_less_or_for_something_else_is_no_payment(moved):
    assert not TERMS.is_paid_by(moved, PAYER)


def test_one_share_does_not_count_for_two_challenges():
    other = replace(MAIN, memo=memo_of("another", REALM))

    assert not TERMS.is_paid_by((MAIN, other, SHARE), PAYER)


@pytest.mark.parametrize("to", [PARTNER, b"\x04" * 20])
def test_one_share_does_not_count_beside_a_payment_to_somebody_else(to: bytes):
    elsewhere = Movement(PAYER, to, 100, memo_of("another", "other.example"))

    assert not TERMS.is_paid_by((MAIN, SHARE, elsewhere), PAYER)
    assert not TERMS.is_paid_by((MAIN, replace(elsewhere, recipient=PARTNER)), PAYER)
    assert not TERMS.is_exactly((MAIN, replace(elsewhere, recipient=PARTNER)))


def test_a_share_may_have_the_memo_of_its_own_challenge():
    """As pympp sends them."""
    assert TERMS.is_paid_by((MAIN, replace(SHARE, memo=MAIN.memo)), PAYER)
    assert TERMS.is_exactly((MAIN, replace(SHARE, memo=MAIN.memo)))


def test_a_share_may_have_a_memo_that_pays_for_nothing():
    assert TERMS.is_paid_by((MAIN, replace(SHARE, memo=b"\xab" * 32)), PAYER)


def test_a_fee_and_what_others_move_is_no_matter_in_logs():
    fee = Movement(PAYER, b"\xfe" * 20, 5)

    assert TERMS.is_paid_by((MAIN, SHARE, fee, replace(MAIN, sender=PARTNER)), PAYER)


def test_only_plain_transfers_of_the_token_are_calls_that_pay():
    good = Call(TOKEN, 0, MAIN.data)

    assert Movement.of_call(good, TOKEN, PAYER) == MAIN
    assert Movement.of_call(Call(TOKEN, 0, SHARE.data), TOKEN, PAYER) == SHARE
    for bad in (
        replace(good, to=PAYEE),
        replace(good, value=1),
        replace(good, data=MAIN.data + b"\0"),
        replace(good, data=MAIN.data[:-1]),
        replace(good, data=b"\0\0\0\0" + MAIN.data[4:]),
        replace(good, data=MAIN.data[:4] + b"\1" + MAIN.data[5:]),
    ):
        assert Movement.of_call(bad, TOKEN, PAYER) is None


def test_a_hash_in_capitals_is_the_same_proof():
    small, tall = (ProofId(1, "0x" + digits * 32, "c") for digits in ("ab", "AB"))

    assert str(small) == str(tall)
    assert ProofId.parse(str(tall)) == small


@pytest.mark.parametrize("proof", [ProofId(1, "0x" + "ab" * 32, "c-_1"), ProofId(7, None, "c")])
def test_a_proof_id_is_read_again(proof: ProofId):
    assert ProofId.parse(str(proof)) == proof


@pytest.mark.parametrize("text", ["", "tempo:1:0xab:c", "tempo:01:zero:c", "tempo:1:zero:", "x"])
def test_other_texts_are_no_proof_id(text: str):
    with pytest.raises(ValueError, match="not the id"):
        ProofId.parse(text)


def test_a_share_is_rounded_down():
    assert [Share(PARTNER, 250).of(minor) for minor in (10_000, 39, 40)] == [250, 0, 1]


@pytest.mark.parametrize(
    "source", [None, "", "did:pkh:eip155:1:0x12", "did:key:z", "did:pkh:solana:1:0x" + "1" * 40]
)
def test_a_source_of_another_kind_names_nobody(source):
    assert parse_source(source) is None
