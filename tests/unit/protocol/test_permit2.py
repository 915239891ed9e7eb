"""Permits of Permit2: what is signed, and how it is put to the contract."""

from dataclasses import replace

import pytest
from eth_abi import encode

from mpp_gateway.crypto.secp256k1 import recover_address
from mpp_gateway.protocol import eip3009, permit2
from mpp_gateway.protocol.permit2 import Move, Permit
from mpp_gateway.protocol.problems import InvalidPayload
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.request import PermitKey

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAYEE = "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00"
PAYER = "f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
SPENDER = bytes.fromhex("70997970C51812dc3A010C7d01b50e0d17dc79C8")
CHALLENGE = "LVn1VpscItw-3EMML3b2Qg4XlKp-tc92LPVD25rVqFU"
# Made with pympp's primitives for a challenge on Base, in the form of version 00 of the draft.
PAYLOAD = {
    "type": "permit2",
    "permit": {
        "permitted": [{"token": USDC, "amount": "10000"}],
        "nonce": "1",
        "deadline": "1893456000",
    },
    "transferDetails": [{"to": PAYEE, "requestedAmount": "10000"}],
    "witness": {
        "challengeHash": "0x9aaf626ba84691c8368b842977cd2dc5976097be1715b95106747f76f300444b"
    },
    "signature": (
        "0x185fddd1c8bffe26055be9facc6c097db9a2e64313d8e57a498f18a08edd9b2f"
        "763da088b7fdaca28e27e570e3d430acd78724ef5d6527d95539d76ef1b7635b1b"
    ),
}


def test_what_is_signed_is_what_another_implementation_signs():
    permit = Permit.from_payload(PAYLOAD)
    first, _ = permit.witnesses()

    digest = permit.digest(first, 8453, SPENDER)

    assert permit2.domain(8453).separator.hex() == (
        "3b6f35e4fce979ef8eac3bcdc8c3fc38fe7911bb0c69c8fe72bf1fd1a17e6f07"
    )
    assert first.hash.hex() == "16bb009ce3d434ff4226d41c5fd5577846afc4029e8f757a8560cdfae57ebcd4"
    assert digest.hex() == "4285d8f0f3f7fca24fc0efa9ad2072604d31b66ca97b384c063b55c576dd2e58"
    assert recover_address(digest, permit.signature).hex() == PAYER.lower()
    assert permit.challenge_hash == eip3009.challenge_hashes(CHALLENGE, "api.example.com")[0]


def test_the_forms_of_the_draft_are_told_apart_by_what_was_signed():
    permit = Permit.from_payload(PAYLOAD)
    first, second = (permit.digest(w, 8453, SPENDER) for w in permit.witnesses())

    assert recover_address(second, permit.signature).hex() != PAYER.lower()
    assert first != second


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": 2},
        {"deadline": 1},
        {"challenge_hash": b"\1" * 32},
        {"moves": (Move(b"\1" * 20, 10_000, b"\2" * 20, 10_000),)},
    ],
)
def test_every_term_is_signed(change):
    permit = Permit.from_payload(PAYLOAD)
    first, _ = permit.witnesses()
    other = replace(permit, **change)

    assert other.digest(next(other.witnesses()), 8453, SPENDER) != permit.digest(
        first, 8453, SPENDER
    )
    assert permit.digest(first, 1, SPENDER) != permit.digest(first, 8453, SPENDER)
    assert permit.digest(first, 8453, b"\3" * 20) != permit.digest(first, 8453, SPENDER)


def test_one_transfer_is_encoded_as_solidity_does():
    permit = Permit.from_payload(PAYLOAD)
    first, _ = permit.witnesses()
    owner = bytes.fromhex(PAYER)
    types = [
        "((address,uint256),uint256,uint256)",
        "(address,uint256)",
        "address",
        "bytes32",
        "string",
        "bytes",
    ]
    values = [
        ((USDC, 10_000), 1, 1_893_456_000),
        (PAYEE, 10_000),
        owner,
        first.hash,
        first.type_string,
        permit.signature,
    ]

    call = abi.permit_transfer(permit, owner, first)

    assert call[:4].hex() == "137c29fe"
    assert call[4:] == encode(types, values)


def test_several_transfers_are_encoded_as_solidity_does():
    one = Permit.from_payload(PAYLOAD)
    more = Move(bytes.fromhex(USDC[2:]), 7, b"\x55" * 20, 6)
    permit = replace(one, moves=(*one.moves, more, more))
    _, second = permit.witnesses()
    owner = bytes.fromhex(PAYER)
    types = [
        "((address,uint256)[],uint256,uint256)",
        "(address,uint256)[]",
        "address",
        "bytes32",
        "string",
        "bytes",
    ]
    values = [
        ([(USDC, 10_000), (USDC, 7), (USDC, 7)], 1, 1_893_456_000),
        [(PAYEE, 10_000), (more.to, 6), (more.to, 6)],
        owner,
        second.hash,
        second.type_string,
        permit.signature,
    ]

    call = abi.permit_transfer(permit, owner, second)

    assert call[:4].hex() == "fe8ec1a7"
    assert call[4:] == encode(types, values)


def test_a_recovery_id_is_written_as_the_contract_takes_it():
    permit = Permit.from_payload(PAYLOAD)
    raw = replace(permit, signature=permit.signature[:-1] + b"\x00")

    assert raw.settled_signature == permit.settled_signature == permit.signature


@pytest.mark.parametrize("nonce", [0, 1, 2**256 - 1])
def test_a_proof_has_one_name(nonce):
    key = PermitKey(8453, b"\xab" * 20, nonce)

    assert PermitKey.parse(str(key)) == key
    assert PermitKey.parse(str(key).replace("permit2", "permit3")) is None
    assert PermitKey.parse(f"permit2:8453:0x{'ab' * 20}:0{nonce}1") is None


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"permit": "x"}, "permit"),
        ({"witness": None}, "witness"),
        ({"transferDetails": [{}]}, "to"),
        ({"signature": "0x" + "11" * 64}, "signature"),
        ({"witness": {"challengeHash": "0x12"}}, "challengeHash"),
    ],
)
def test_what_is_malformed_is_named(members, what):
    with pytest.raises(InvalidPayload, match=what):
        Permit.from_payload(PAYLOAD | members)
