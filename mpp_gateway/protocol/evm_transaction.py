"""Ethereum transactions of type 2 (EIP-1559) that their sender has signed.

Types 0, 1, 3 and 4 are not read: the evm charge draft asks for this one, and what carries
authorizations or blobs does more than pay.
"""

from dataclasses import dataclass, field
from typing import Self

from mpp_gateway.crypto.addresses import ADDRESS_BYTES
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.rlp import Item

TYPE = 0x02
RAW_MAX = 4_096
_UNSIGNED = 9
_WORD_BITS, _LONG_BITS = 256, 64
_WORD = 32


class TransactionError(ValueError):
    """The bytes are no transaction that can be read here; the text says why."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """What a sender signs: one call. Fees are wei for one unit of gas."""

    chain_id: int
    nonce: int
    max_priority_fee: int
    max_fee: int
    gas_limit: int
    to: bytes
    value: int
    data: bytes

    @property
    def digest(self) -> bytes:
        """The 32 bytes that the sender signs."""
        return keccak256(bytes((TYPE,)) + rlp.encode(self._items))

    def signed(self, signature: bytes) -> bytes:
        """Return the transaction as it is broadcast; `signature` is r ‖ s ‖ v, 27 or 28."""
        r, s = (int.from_bytes(signature[i : i + _WORD]) for i in (0, _WORD))
        items = [signature[2 * _WORD] - 27, r, s]
        return bytes((TYPE,)) + rlp.encode([*self._items, *map(rlp.encode_uint, items)])

    @property
    def _items(self) -> list[Item]:
        numbers = (self.chain_id, self.nonce, self.max_priority_fee, self.max_fee, self.gas_limit)
        head: list[Item] = [rlp.encode_uint(number) for number in numbers]
        return [*head, self.to, rlp.encode_uint(self.value), self.data, []]


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """A transaction with its sender. `raw` can move money: it stays out of every text."""

    unsigned: Unsigned
    sender: bytes
    tx_hash: str
    """In lower case. `raw` is the only encoding of the transaction, so it has no other hash."""
    raw: bytes = field(repr=False)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return the transaction that `raw` is; raises TransactionError.

        Nothing that could be written in two ways is taken: padded numbers, the upper half of `s`,
        a parity other than 0 or 1.
        """
        if len(raw) > RAW_MAX or raw[:1] != bytes((TYPE,)):
            raise TransactionError("not a transaction of type 2 (EIP-1559)")
        try:
            unsigned, parity, r, s = _read(rlp.decode(raw[1:]))
            signature = r.to_bytes(_WORD) + s.to_bytes(_WORD) + bytes((parity,))
            sender = recover_address(unsigned.digest, signature)
        except (rlp.RlpError, SignatureError) as error:
            raise TransactionError(str(error)) from error
        return cls(unsigned, sender, "0x" + keccak256(raw).hex(), raw)


def _read(items: Item) -> tuple[Unsigned, int, int, int]:
    if not isinstance(items, list) or len(items) != _UNSIGNED + 3:
        raise TransactionError("not the fields of a signed transaction")
    chain_id, nonce, tip, fee, gas, to, value, data, access, parity, r, s = items
    if access != []:
        raise TransactionError("it has an access list")
    if not isinstance(to, bytes) or len(to) != ADDRESS_BYTES or not isinstance(data, bytes):
        raise TransactionError("it calls no contract")
    unsigned = Unsigned(
        chain_id=rlp.decode_uint(chain_id, _LONG_BITS),
        nonce=rlp.decode_uint(nonce, _LONG_BITS),
        max_priority_fee=rlp.decode_uint(tip, _WORD_BITS),
        max_fee=rlp.decode_uint(fee, _WORD_BITS),
        gas_limit=rlp.decode_uint(gas, _LONG_BITS),
        to=to,
        value=rlp.decode_uint(value, _WORD_BITS),
        data=data,
    )
    odd = rlp.decode_uint(parity, 8)
    if odd > 1:
        raise TransactionError("its parity is neither 0 nor 1")
    return unsigned, odd, rlp.decode_uint(r, _WORD_BITS), rlp.decode_uint(s, _WORD_BITS)
