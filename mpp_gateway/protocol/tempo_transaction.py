"""Tempo transactions (EIP-2718 type 0x76) that their sender has signed with secp256k1.

Fields: Tempo transaction specification. Signatures of other kinds (P-256, WebAuthn, access keys)
are not read. Who pays the fee signs last, over the sender and the token that the fee is paid in.
"""

from dataclasses import dataclass, field, replace
from typing import Self

from mpp_gateway.crypto.addresses import ADDRESS_BYTES
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import (
    SIGNATURE_BYTES,
    SignatureError,
    recover_address,
    sign,
)
from mpp_gateway.protocol import rlp
from mpp_gateway.protocol.rlp import Item

TYPE = 0x76
FEE_PAYER_TYPE = 0x78
"""First byte of what a fee payer signs, and of what some clients send it."""
EXPIRING_NONCE_KEY = 2**256 - 1
"""The nonce key of transactions that the chain tells apart by hash, until they run out."""
RAW_MAX = 16_384
CALLS_MAX = 32

_FIELDS = 13
_WORD_BITS, _LONG_BITS = 256, 64
_V_OFFSET = 27
_LEFT_TO_SPONSOR = b"\0"


class TransactionError(ValueError):
    """The bytes are no Tempo transaction that can be read here; the text says why."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the batch; all of them happen, or none."""

    to: bytes
    value: int
    data: bytes

    @property
    def _item(self) -> Item:
        return [self.to, rlp.encode_uint(self.value), self.data]


@dataclass(frozen=True, slots=True)
class Unsigned:
    """What a sender signs. Times are unix seconds; None leaves the transaction open there."""

    chain_id: int
    max_priority_fee: int
    max_fee: int
    gas_limit: int
    calls: tuple[Call, ...]
    nonce_key: int
    nonce: int
    valid_before: int | None = None
    valid_after: int | None = None
    fee_token: bytes | None = None
    is_sponsored: bool = False
    """Whether the sender leaves the fee, and the token for it, to somebody else."""

    @property
    def digest(self) -> bytes:
        """The 32 bytes that the sender signs."""
        return keccak256(bytes((TYPE,)) + rlp.encode(self._items(*self._left_open)))

    def signed(self, signature: bytes) -> bytes:
        """Return the transaction as its sender gives it away: r ‖ s ‖ v, with v of 27 or 28."""
        return bytes((TYPE,)) + rlp.encode([*self._items(*self._left_open), signature])

    def cosigned(self, signature: bytes, sender: bytes, fee_token: bytes, key: bytes) -> bytes:
        """Return the transaction as it is broadcast, its fee paid in `fee_token` by `key`."""
        asked = bytes((FEE_PAYER_TYPE,)) + rlp.encode(self._items(fee_token, sender))
        signed = sign(keccak256(asked), key)
        numbers = signed[64] - _V_OFFSET, *map(int.from_bytes, (signed[:32], signed[32:64]))
        sponsor: Item = [rlp.encode_uint(number) for number in numbers]
        return bytes((TYPE,)) + rlp.encode([*self._items(fee_token, sponsor), signature])

    @property
    def _left_open(self) -> tuple[bytes, bytes]:
        if self.is_sponsored:
            return b"", _LEFT_TO_SPONSOR
        return self.fee_token or b"", b""

    def _items(self, fee_token: bytes, sponsor: Item) -> list[Item]:
        # No access list and no authorizations: `_read` refuses a transaction with any.
        calls: list[Item] = [call._item for call in self.calls]  # noqa: SLF001
        return [
            rlp.encode_uint(self.chain_id),
            rlp.encode_uint(self.max_priority_fee),
            rlp.encode_uint(self.max_fee),
            rlp.encode_uint(self.gas_limit),
            calls,
            [],
            rlp.encode_uint(self.nonce_key),
            rlp.encode_uint(self.nonce),
            _optional(self.valid_before),
            _optional(self.valid_after),
            fee_token,
            sponsor,
            [],
        ]


@dataclass(frozen=True, slots=True)
class TempoTransaction:
    """A transaction with its sender. `raw` can move money: it stays out of every text."""

    unsigned: Unsigned
    sender: bytes
    tx_hash: str
    """Known before it is broadcast: the hash of `raw`, which is its only encoding."""
    raw: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def cosigned(self, fee_token: bytes, key: bytes) -> Self:
        """Return it with the fee paid in `fee_token` by the account of `key`; the same every time.

        Only then has it the name under which a block has it.
        """
        raw = self.unsigned.cosigned(self.signature, self.sender, fee_token, key)
        unsigned = replace(self.unsigned, fee_token=fee_token)
        tx_hash = "0x" + keccak256(raw).hex()
        return replace(self, unsigned=unsigned, raw=raw, tx_hash=tx_hash)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Return the transaction that `raw` is; raises TransactionError.

        `raw` is written anew with the signature in the form that nodes hash: otherwise one
        transaction would go by two names, and could be shown twice.
        """
        if len(raw) > RAW_MAX or raw[:1] not in {bytes((TYPE,)), bytes((FEE_PAYER_TYPE,))}:
            raise TransactionError("not a Tempo transaction of type 0x76")
        try:
            items = rlp.decode(raw[1:])
            unsigned, signature, named = _read(items, left_to=raw[0] == FEE_PAYER_TYPE)
        except rlp.RlpError as error:
            raise TransactionError(str(error)) from error
        if len(signature) != SIGNATURE_BYTES:
            raise TransactionError("not signed with secp256k1 by the paying account itself")
        try:
            sender = recover_address(unsigned.digest, signature)
        except SignatureError as error:
            raise TransactionError(str(error)) from error
        if named is not None and named != sender:
            raise TransactionError("it names another sender than the one that signed it")
        v = signature[64] if signature[64] >= _V_OFFSET else signature[64] + _V_OFFSET
        signature = signature[:64] + bytes((v,))
        canonical = unsigned.signed(signature)
        return cls(unsigned, sender, "0x" + keccak256(canonical).hex(), canonical, signature)


def _read(items: Item, *, left_to: bool) -> tuple[Unsigned, bytes, bytes | None]:
    """Return the fields, the sender's signature, and the sender where a fee payer is told it."""
    if not isinstance(items, list) or len(items) != _FIELDS + 1:
        raise TransactionError("not the fields of a transaction that its sender alone has signed")
    chain_id, tip, fee, gas, calls, access, key, nonce, before, after, token, sponsor, grants = (
        items[:_FIELDS]
    )
    is_sponsored = left_to or sponsor == _LEFT_TO_SPONSOR
    named = sponsor if left_to else None
    if named is not None and (not isinstance(named, bytes) or len(named) != ADDRESS_BYTES):
        raise TransactionError("it is for a fee payer and does not name its sender")
    if not is_sponsored and sponsor != b"":
        raise TransactionError("somebody else has signed for the fee already")
    if is_sponsored and token != b"":
        raise TransactionError("it leaves the fee to somebody else and names a token for it")
    if access != [] or grants != []:
        raise TransactionError("it has an access list or authorizations")
    if not isinstance(token, bytes) or len(token) not in {0, ADDRESS_BYTES}:
        raise TransactionError("its fee token is not an address")
    signature = items[_FIELDS]
    if not isinstance(signature, bytes):
        raise TransactionError("not signed with secp256k1 by the paying account itself")
    unsigned = Unsigned(
        chain_id=rlp.decode_uint(chain_id, _LONG_BITS),
        max_priority_fee=rlp.decode_uint(tip, _WORD_BITS),
        max_fee=rlp.decode_uint(fee, _WORD_BITS),
        gas_limit=rlp.decode_uint(gas, _LONG_BITS),
        calls=_calls(calls),
        nonce_key=rlp.decode_uint(key, _WORD_BITS),
        nonce=rlp.decode_uint(nonce, _LONG_BITS),
        valid_before=rlp.decode_uint(before, _LONG_BITS) or None,
        valid_after=rlp.decode_uint(after, _LONG_BITS) or None,
        fee_token=token or None,
        is_sponsored=is_sponsored,
    )
    return unsigned, signature, named


def _calls(items: Item) -> tuple[Call, ...]:
    if not isinstance(items, list) or not 1 <= len(items) <= CALLS_MAX:
        raise TransactionError(f"not 1 to {CALLS_MAX} calls")
    calls = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3:
            raise TransactionError("a call is not address, value and data")
        to, value, data = item
        if not isinstance(to, bytes) or len(to) != ADDRESS_BYTES or not isinstance(data, bytes):
            raise TransactionError("a call is not address, value and data")
        calls.append(Call(to, rlp.decode_uint(value, _WORD_BITS), data))
    return tuple(calls)


def _optional(value: int | None) -> bytes:
    return b"" if value is None else rlp.encode_uint(value)
