"""The calls and events of a TIP-20 token that move money, packed and read by hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.protocol.tempo_transaction import Call

WORD = 32
DECIMALS = 6
"""Of every TIP-20 token (TIP-20 specification, "Decimals")."""

BALANCE_OF = keccak256(b"balanceOf(address)")[:4]
DECIMALS_OF = keccak256(b"decimals()")[:4]
TRANSFER = keccak256(b"transfer(address,uint256)")[:4]
TRANSFER_WITH_MEMO = keccak256(b"transferWithMemo(address,uint256,bytes32)")[:4]
TRANSFER_TOPIC = keccak256(b"Transfer(address,address,uint256)")
MEMO_TOPIC = keccak256(b"TransferWithMemo(address,address,uint256,bytes32)")
_WORDS = {TRANSFER: 2, TRANSFER_WITH_MEMO: 3}


@dataclass(frozen=True, slots=True)
class Log:
    """One event of a mined transaction."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Movement:
    """Money of one token on its way from one purse to another, with the memo, if it has one."""

    sender: bytes
    recipient: bytes
    amount_minor: int
    memo: bytes | None = None

    @classmethod
    def of_call(cls, call: Call, token: bytes, sender: bytes) -> Self | None:
        """Return what a call moves; None if it is anything but a plain transfer of `token`."""
        words = _WORDS.get(call.data[:4])
        if call.to != token or call.value or words is None or len(call.data) != 4 + words * WORD:
            return None
        to, amount, memo = (call.data[4 + i * WORD : 4 + (i + 1) * WORD] for i in range(3))
        recipient = _address(to)
        if recipient is None:
            return None
        return cls(sender, recipient, int.from_bytes(amount), memo or None)

    @property
    def data(self) -> bytes:
        """The call data that makes it."""
        plain = address_word(self.recipient) + self.amount_minor.to_bytes(WORD)
        return TRANSFER + plain if self.memo is None else TRANSFER_WITH_MEMO + plain + self.memo


def movements(logs: tuple[Log, ...], token: bytes) -> Iterator[Movement]:
    """Yield each movement of `token` that the logs of one transaction show, once.

    A transfer with a memo logs both events, one right behind the other: counted twice, one
    transfer would pay for two.
    """
    before: Movement | None = None
    for log in logs:
        found = _movement(log) if log.address == token else None
        if found is not None and found.memo is not None and before == _plain(found):
            before = None
            yield found
            continue
        if before is not None:
            yield before
        before = None
        if found is not None and found.memo is None:
            before = found
        elif found is not None:
            yield found
    if before is not None:
        yield before


def address_word(address: bytes) -> bytes:
    """Return a 20-byte address as one word."""
    return address.rjust(WORD, b"\0")


def _movement(log: Log) -> Movement | None:
    memo = None
    if log.topics[:1] == (MEMO_TOPIC,) and len(log.topics) == 4:
        memo = log.topics[3]
    elif log.topics[:1] != (TRANSFER_TOPIC,) or len(log.topics) != 3:
        return None
    sender, recipient = _address(log.topics[1]), _address(log.topics[2])
    if sender is None or recipient is None or len(log.data) != WORD:
        return None
    return Movement(sender, recipient, int.from_bytes(log.data), memo)


def _plain(movement: Movement) -> Movement:
    return Movement(movement.sender, movement.recipient, movement.amount_minor)


def _address(word: bytes) -> bytes | None:
    return word[12:] if len(word) == WORD and not any(word[:12]) else None
