"""Transactions of type 2: read as another library writes them, and in one form only."""

import pytest
from eth_account import Account

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import ORDER, address_of
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.evm_transaction import RAW_MAX, SignedTransaction, TransactionError

KEY = keccak256(b"a payer")
TO = b"\x42" * 20
FIELDS = {
    "type": 2,
    "chainId": 8453,
    "nonce": 0,
    "maxPriorityFeePerGas": 1,
    "maxFeePerGas": 10**11,
    "gas": 65_000,
    "to": checksum(TO),
    "value": 0,
    "data": b"\xa9\x05\x9c\xbb" + bytes(64),
}


def foreign(**changes) -> bytes:
    """A transaction that eth-account has signed."""
    return bytes(Account.from_key(KEY).sign_transaction(FIELDS | changes).raw_transaction)


def items() -> list:
    found = rlp.decode(foreign()[1:])
    assert isinstance(found, list)
    return found


def written(found) -> bytes:
    return b"\x02" + rlp.encode(found)


@pytest.mark.parametrize("nonce", [0, 1, 127, 128, 2**40])
def test_a_transaction_of_another_library_is_read_as_it_was_meant(nonce):
    signed = Account.from_key(KEY).sign_transaction(FIELDS | {"nonce": nonce})

    read = SignedTransaction.decode(bytes(signed.raw_transaction))

    assert read.sender == address_of(KEY)
    assert read.tx_hash == "0x" + bytes(signed.hash).hex()
    unsigned = read.unsigned
    assert (unsigned.chain_id, unsigned.nonce, unsigned.to) == (8453, nonce, TO)
    assert (unsigned.max_fee, unsigned.gas_limit, unsigned.value) == (10**11, 65_000, 0)
    assert unsigned.data == FIELDS["data"]


def test_what_could_be_written_in_two_ways_is_not_taken():
    """Else one payment would have two names, and buy two calls."""
    fields = items()
    parity, r, s = fields[9:]
    upper = rlp.encode_uint(ORDER - int.from_bytes(s))
    other = b"" if parity else b"\x01"
    cases = {
        "the upper half of s": [*fields[:9], other, r, upper],
        "a padded number": [*fields[:10], b"\0" + r, s],
        "a padded nonce": [fields[0], b"\0", *fields[2:]],
        "parity as v": [*fields[:9], b"\x1b", r, s],
        "parity 2": [*fields[:9], b"\x02", r, s],
        "s of zero": [*fields[:11], b""],
        "more fields": [*fields, b""],
        "fewer fields": fields[:11],
        "a list for a number": [[b"\1"], *fields[1:]],
        "an access list": [*fields[:8], [[TO, []]], *fields[9:]],
        "no address": [*fields[:5], b"", *fields[6:]],
        "a short address": [*fields[:5], TO[:19], *fields[6:]],
    }

    for found in cases.values():
        with pytest.raises(TransactionError):
            SignedTransaction.decode(written(found))
    assert SignedTransaction.decode(written(fields)).sender == address_of(KEY)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x02",
        b"\x01" + foreign()[1:],
        b"\x76" + foreign()[1:],
        foreign() + b"\0",
        foreign()[:-1],
        foreign(data=bytes(RAW_MAX)),
        b"\x02" + b"\xc1" * 3000,
    ],
)
def test_anything_else_is_refused(raw):
    with pytest.raises(TransactionError):
        SignedTransaction.decode(raw)


def test_a_legacy_transaction_is_refused():
    legacy = {k: v for k, v in FIELDS.items() if k != "type" and "Fee" not in k}
    signed = Account.from_key(KEY).sign_transaction(legacy | {"gasPrice": 1})

    with pytest.raises(TransactionError, match="type 2"):
        SignedTransaction.decode(bytes(signed.raw_transaction))


def test_a_signed_transaction_is_in_no_text():
    assert foreign().hex() not in repr(SignedTransaction.decode(foreign()))
