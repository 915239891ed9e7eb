"""Tempo transactions: what another implementation has signed is read, and in one form only."""

from dataclasses import replace

import pytest

from mpp_gateway.crypto.secp256k1 import ORDER, address_of, sign
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.tempo_transaction import (
    EXPIRING_NONCE_KEY,
    RAW_MAX,
    Call,
    TempoTransaction,
    TransactionError,
    Unsigned,
)

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
TOKEN = bytes.fromhex("20c0000000000000000000000000000000000000")
# Signed by viem 2.55 with the key above.
VIEM = bytes.fromhex(
    "76f9016f82a5bf8085059682f000830493e0f8dcf87c9420c000000000000000000000000000000000000080b864"
    "95777d59000000000000000000000000742d35cc6634c0532925a3b844bc9e7595f8fe00000000000000000000000000"
    "00000000000000000000000000000000000f4240ef1ed712011ece072f76bd8b82350e00000000000000000000343633"
    "7181f4e4f85c9420c000000000000000000000000000000000000080b844a9059cbb000000000000000000000000742d"
    "35cc6634c0532925a3b844bc9e7595f8fe01000000000000000000000000000000000000000000000000000000000000"
    "0001c0a0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff808470dbd628809420c00000"
    "0000000000000000000000000000000080c0b84126ec16dd2a264381dab370fc21e5fcfd5b98fd24fe36908fac93a8b3"
    "6d1859db0a5508cd8d2219990999dfe1cd1b281e2fa1d91648e865d64b54165512af74cd1b"
)
VIEM_HASH = "0xdc62d05c3e2bdff3ebd8aec2eded613ea16f8cc3d310f578d529fdf72edfd4bc"
SIGNATURE = VIEM[-65:]
GRANT = b"\x01" * 20


def fields() -> list:
    return rlp.decode(VIEM[1:])


def changed(place: int, item) -> bytes:
    items = fields()
    items[place] = item
    return b"\x76" + rlp.encode(items)


def test_what_viem_has_signed_is_read_with_sender_hash_and_calls():
    transaction = TempoTransaction.decode(VIEM)

    assert transaction.sender == address_of(KEY)
    assert (transaction.tx_hash, transaction.raw) == (VIEM_HASH, VIEM)
    unsigned = transaction.unsigned
    assert (unsigned.chain_id, unsigned.gas_limit, unsigned.max_fee) == (42431, 300_000, 24 * 10**9)
    assert (unsigned.nonce_key, unsigned.nonce) == (EXPIRING_NONCE_KEY, 0)
    assert (unsigned.valid_before, unsigned.valid_after) == (1893455400, None)
    assert unsigned.fee_token == TOKEN
    assert [call.data[:4].hex() for call in unsigned.calls] == ["95777d59", "a9059cbb"]


def test_a_transaction_written_here_is_the_one_that_viem_writes():
    unsigned = TempoTransaction.decode(VIEM).unsigned

    assert unsigned.signed(sign(unsigned.digest, KEY)) == VIEM


def test_another_form_of_the_signature_gives_the_transaction_no_second_name():
    short = SIGNATURE[:64] + bytes((SIGNATURE[64] - 27,))

    assert TempoTransaction.decode(changed(13, short)).tx_hash == VIEM_HASH


def test_a_malleated_signature_is_refused():
    s = ORDER - int.from_bytes(SIGNATURE[32:64])
    twin = SIGNATURE[:32] + s.to_bytes(32) + bytes((55 - SIGNATURE[64],))

    with pytest.raises(TransactionError, match="upper half"):
        TempoTransaction.decode(changed(13, twin))


def test_a_changed_field_changes_the_sender():
    other = TempoTransaction.decode(changed(3, rlp.encode_uint(300_001)))

    assert other.sender != address_of(KEY)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "type 0x76"),
        (b"\x02" + VIEM[1:], "type 0x76"),
        (b"\x78" + VIEM[1:], "does not name its sender"),
        (VIEM + b"\0", "bytes after"),
        (VIEM[:-1], "ends in the middle"),
        (VIEM.ljust(RAW_MAX + 1, b"\0"), "type 0x76"),
        (changed(11, b"\0"), "names a token for it"),
        (changed(11, [b"\x01", b"\x02", b"\x03"]), "signed for the fee already"),
        (changed(5, [[TOKEN, []]]), "access list"),
        (changed(12, [GRANT]), "authorizations"),
        (changed(10, b"\x01\x02"), "fee token"),
        (changed(4, []), "calls"),
        (changed(4, [[TOKEN, b"", b""]] * 33), "calls"),
        (changed(4, [[TOKEN, b""]]), "address, value and data"),
        (changed(4, [[b"", b"", b""]]), "address, value and data"),
        (changed(0, b"\x00\x01"), "unsigned integer"),
        (changed(8, b"\x01" * 9), "unsigned integer"),
        (changed(13, b"\x03" + TOKEN + SIGNATURE), "paying account itself"),
        (changed(13, b""), "paying account itself"),
        (b"\x76" + rlp.encode(fields()[:13]), "sender alone"),
        (b"\x76" + rlp.encode([*fields()[:13], [GRANT], SIGNATURE]), "sender alone"),
        (b"\x76" + rlp.encode(b"x"), "sender alone"),
    ],
)
def test_what_is_no_plain_signed_transaction_is_refused_in_words(raw: bytes, why: str):
    with pytest.raises(TransactionError, match=why):
        TempoTransaction.decode(raw)


def test_a_transaction_without_end_says_so():
    unsigned = replace(TempoTransaction.decode(VIEM).unsigned, valid_before=None)
    raw = unsigned.signed(sign(unsigned.digest, KEY))

    assert TempoTransaction.decode(raw).unsigned.valid_before is None


def test_what_can_move_money_is_in_no_text():
    transaction = TempoTransaction.decode(VIEM)

    assert SIGNATURE.hex() not in repr(transaction)
    assert repr(SIGNATURE[:8])[2:-1] not in repr(transaction)


def test_a_call_of_nothing_is_written_and_read_alike():
    unsigned = Unsigned(1, 0, 0, 1, (Call(TOKEN, 0, b""),), 0, 0)

    assert TempoTransaction.decode(unsigned.signed(sign(unsigned.digest, KEY))).unsigned == unsigned
