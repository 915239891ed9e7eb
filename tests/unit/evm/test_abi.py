"""Call data and logs, against published values and against an attacker's transaction."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi import encode

import mpp_gateway.demo
from mpp_gateway.demo.chain import token_artifact
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.permit2 import Move, Permit
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Log, Transfer, authorization_paid
from tests.support import contracts

TOKEN, PAYER, PAYEE, NONCE = b"\1" * 20, b"\2" * 20, b"\3" * 20, b"\4" * 32
EXPECTED = Transfer(TOKEN, PAYER, PAYEE, 1000)


def used(nonce: bytes = NONCE, sender: bytes = PAYER) -> Log:
    return Log(TOKEN, (abi.AUTHORIZATION_USED_TOPIC, abi.address_word(sender), nonce), b"")


def moved(value: int = 1000, to: bytes = PAYEE, token: bytes = TOKEN) -> Log:
    ends = (abi.address_word(PAYER), abi.address_word(to))
    return Log(token, (abi.TRANSFER_TOPIC, *ends), abi.uint_word(value))


@pytest.mark.parametrize(
    ("ours", "published"),
    [
        (abi.BALANCE_OF, "70a08231"),
        (abi.TRANSFER, "a9059cbb"),
        (abi.AUTHORIZATION_STATE, "e94a0102"),
        (abi.TRANSFER_WITH_AUTHORIZATION, "e3ee160e"),
        (abi.DOMAIN_SEPARATOR, "3644e515"),
        (abi.EIP712_DOMAIN, "84b0196e"),
        (abi.TRANSFER_WITH_ANY_SIGNATURE, "cf092995"),
        (abi.IS_VALID_SIGNATURE, "1626ba7e"),
        (
            abi.TRANSFER_TOPIC,
            "ddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef",
        ),
        (
            abi.AUTHORIZATION_USED_TOPIC,
            "98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5",
        ),
    ],
)
def test_selectors_and_topics_are_the_published_ones(ours, published):
    assert ours.hex() == published


TERMS = "((address,uint256),uint256,uint256)"
OWN_PERMIT = "(uint256,uint256,bytes32,bytes32,uint8)"
FOR_PRICE = (((TOKEN, 1000), 7, 99), PAYER, (PAYEE, 5), b"\1" * 65)


@pytest.mark.parametrize("with_permit", [False, True])
def test_both_calls_of_the_proxy_for_a_price_are_read(with_permit):
    kinds = [TERMS, "address", "(address,uint256)", "bytes"]
    values = list(FOR_PRICE)
    if with_permit:
        kinds.insert(0, OWN_PERMIT)
        values.insert(0, (1000, 99, b"\2" * 32, b"\3" * 32, 27))
    name = "settleWithPermit" if with_permit else "settle"
    call = abi.selector(f"{name}({','.join(kinds)})") + encode(kinds, values)

    assert abi.read_exact_settle(call) == abi.ProxySettle(TOKEN, 7, 1000, PAYER, PAYEE, None)
    assert abi.read_upto_settle(call) is None
    assert abi.read_exact_settle(call[:200]) is None
    assert abi.read_exact_settle(abi.UPTO_SETTLE + call[4:]) is None


def test_a_recovery_id_of_zero_or_one_is_written_as_27_or_28():
    signature = b"\5" * 64
    calls = {
        abi.transfer_with_authorization(
            Authorization(PAYER, PAYEE, 1, 0, 2, NONCE, signature + bytes((v,)))
        )
        for v in (0, 27)
    }
    assert len(calls) == 1
    assert calls.pop()[4 + 6 * 32 : 4 + 7 * 32] == abi.uint_word(27)


def test_a_use_followed_by_its_transfer_is_a_payment():
    assert authorization_paid((used(), moved()), NONCE, EXPECTED)


@pytest.mark.parametrize(
    "logs",
    [
        (),
        (used(),),
        (moved(),),
        (moved(), used()),
        (used(b"\5" * 32), moved()),
        (used(sender=PAYEE), moved()),
        (used(), moved(999)),
        (used(), moved(1001)),
        (used(), moved(to=PAYER)),
        (used(), moved(token=b"\6" * 20)),
        (used(), replace(moved(), topics=(abi.TRANSFER_TOPIC,))),
    ],
)
def test_anything_else_is_no_payment(logs):
    assert not authorization_paid(logs, NONCE, EXPECTED)


def test_one_transfer_does_not_pay_two_nonces():
    """The payer burns nonce B on himself beside an honest payment A, and shows A's transfer."""
    nonce_a = b"\7" * 32
    logs = (used(nonce_a), moved(), used(NONCE), moved(0, PAYER))

    assert authorization_paid(logs, nonce_a, EXPECTED)
    assert not authorization_paid(logs, NONCE, EXPECTED)
    assert not authorization_paid((used(NONCE), used(nonce_a), moved()), NONCE, EXPECTED)


def test_logs_of_other_contracts_in_between_do_not_matter():
    other = moved(5, token=b"\6" * 20)
    assert authorization_paid((used(), other, moved()), NONCE, EXPECTED)


def test_the_compiled_token_is_the_source_that_is_here():
    source = Path(mpp_gateway.demo.__path__[0], "token.sol").read_bytes()
    assert token_artifact()["source_sha256"] == hashlib.sha256(source).hexdigest(), (
        "run scripts/compile-token"
    )


@pytest.mark.parametrize("name", contracts.NAMES)
def test_the_compiled_stand_ins_are_the_sources_that_are_here(name):
    source = (contracts.HERE / f"{name}.sol").read_bytes()
    artifact = json.loads((contracts.HERE / f"{name}.json").read_text())
    assert artifact["source_sha256"] == hashlib.sha256(source).hexdigest(), (
        "run scripts/compile-token"
    )


def test_a_signature_of_any_length_is_encoded_as_solidity_does():
    signed = Authorization(b"\1" * 20, b"\2" * 20, 5, 6, 7, b"\3" * 32, b"\4" * 70)
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "bytes"]
    values = [signed.sender, signed.recipient, 5, 6, 7, signed.nonce, signed.signature]

    assert abi.transfer_with_any_signature(signed)[4:] == encode(types, values)
    assert abi.is_valid_signature(b"\5" * 32, b"\6" * 65)[4:] == encode(
        ["bytes32", "bytes"], [b"\5" * 32, b"\6" * 65]
    )


@pytest.mark.parametrize("count", [1, 2, 11])
def test_the_nonce_of_a_permits_use_is_read_by_its_place(count: int):
    """Every word of the call could be the nonce of another permit."""
    moves = tuple(Move(TOKEN, 1000 + n, PAYEE, 1000 + n) for n in range(count))
    permit = Permit(moves, 77, 2**31, b"\5" * 32, b"\6" * 64 + b"\x1b")
    call = abi.permit_transfer(permit, PAYER, next(permit.witnesses()))

    assert abi.read_permit_use(call) == (PAYER, 77)
    at = call.index(abi.uint_word(77))
    assert abi.read_permit_use(call[:at] + abi.uint_word(78) + call[at + 32 :]) == (PAYER, 78)
    for other in (b"", b"\0" * 4 + call[4:], call[: 4 + 6 * 32], abi.mint(PAYER, 77)):
        assert abi.read_permit_use(other) is None
    shifted = call[:4] + abi.uint_word(7 * 32) + call[36:]
    assert count == 1 or abi.read_permit_use(shifted) is None
