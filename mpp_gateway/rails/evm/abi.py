"""The few contract calls and events of EIP-20 and EIP-3009 that the rail uses, packed by hand.

Every argument is one 32-byte word (Solidity ABI specification, "Formal Specification of the
Encoding"), so no general encoder is needed.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.permit2 import Permit, Witness

WORD = 32
UINT256_MAX = 2**256 - 1


def selector(signature: str) -> bytes:
    """Return the first four bytes of the hash of a function signature."""
    return keccak256(signature.encode("ascii"))[:4]


def topic(signature: str) -> bytes:
    """Return the hash of an event signature: the first topic of its logs."""
    return keccak256(signature.encode("ascii"))


BALANCE_OF = selector("balanceOf(address)")
AUTHORIZATION_STATE = selector("authorizationState(address,bytes32)")
DOMAIN_SEPARATOR = selector("DOMAIN_SEPARATOR()")
EIP712_DOMAIN = selector("eip712Domain()")
NAME = selector("name()")
VERSION = selector("version()")
DECIMALS = selector("decimals()")
MINT = selector("mint(address,uint256)")
TRANSFER = selector("transfer(address,uint256)")
TRANSFER_WITH_AUTHORIZATION = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"
)

TRANSFER_WITH_ANY_SIGNATURE = selector(
    "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)"
)
ALLOWANCE = selector("allowance(address,address)")
EXACT_SETTLE = selector(
    "settle(((address,uint256),uint256,uint256),address,(address,uint256),bytes)"
)
EXACT_SETTLE_WITH_PERMIT = selector(
    "settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),"
    "address,(address,uint256),bytes)"
)
UPTO_SETTLE = selector(
    "settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"
)
UPTO_SETTLE_WITH_PERMIT = selector(
    "settleWithPermit((uint256,uint256,bytes32,bytes32,uint8),((address,uint256),uint256,uint256),"
    "uint256,address,(address,address,uint256),bytes)"
)
NONCE_BITMAP = selector("nonceBitmap(address,uint256)")
PERMIT_ONE = selector(
    "permitWitnessTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,"
    "bytes32,string,bytes)"
)
PERMIT_MANY = selector(
    "permitWitnessTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,"
    "bytes32,string,bytes)"
)
# Words of such a call, as `permit_transfer` writes it.
_NONCE_OF_ONE, _OWNER_OF_ONE = 2, 6
_OWNER_OF_MANY, _NONCE_OF_MANY = 2, 7
IS_VALID_SIGNATURE = selector("isValidSignature(bytes32,bytes)")

TRANSFER_TOPIC = topic("Transfer(address,address,uint256)")
AUTHORIZATION_USED_TOPIC = topic("AuthorizationUsed(address,bytes32)")
NONCES_GIVEN_UP_TOPIC = topic("UnorderedNonceInvalidation(address,uint256,uint256)")
AUTHORIZATION_CANCELED_TOPIC = topic("AuthorizationCanceled(address,bytes32)")


def address_word(address: bytes) -> bytes:
    """Return a 20-byte address as one word."""
    return address.rjust(WORD, b"\0")


def uint_word(value: int) -> bytes:
    """Return an unsigned integer as one word; `OverflowError` outside uint256."""
    return value.to_bytes(WORD)


def balance_of(owner: bytes) -> bytes:
    """Return the call data of `balanceOf(owner)`."""
    return BALANCE_OF + address_word(owner)


def authorization_state(authorizer: bytes, nonce: bytes) -> bytes:
    """Return the call data of `authorizationState(authorizer, nonce)`."""
    return AUTHORIZATION_STATE + address_word(authorizer) + nonce


def mint(to: bytes, value: int) -> bytes:
    """Return the call data of the demo token's `mint(to, value)`."""
    return MINT + address_word(to) + uint_word(value)


def transfer(to: bytes, value: int) -> bytes:
    """Return the call data of `transfer(to, value)`."""
    return TRANSFER + address_word(to) + uint_word(value)


def read_transfer(payload: bytes) -> tuple[bytes, int] | None:
    """Return to whom and how much a call moves; None if it is no plain `transfer`."""
    if payload[:4] != TRANSFER or len(payload) != 4 + 2 * WORD or any(payload[4:16]):
        return None
    return payload[16:36], int.from_bytes(payload[36:])


def transfer_with_authorization(authorization: Authorization) -> bytes:
    """Return the call data that moves the money of `authorization` (EIP-3009, v r s form).

    A recovery id of 0 or 1 is written as 27 or 28, the only values that tokens take.
    """
    signature = authorization.settled_signature
    return b"".join(
        (
            TRANSFER_WITH_AUTHORIZATION,
            address_word(authorization.sender),
            address_word(authorization.recipient),
            uint_word(authorization.value),
            uint_word(authorization.valid_after),
            uint_word(authorization.valid_before),
            authorization.nonce,
            uint_word(signature[64]),
            signature[:32],
            signature[32:64],
        )
    )


def transfer_with_any_signature(authorization: Authorization) -> bytes:
    """Return the call data that moves the money of a contract wallet (bytes form of EIP-3009)."""
    head = b"".join(
        (
            address_word(authorization.sender),
            address_word(authorization.recipient),
            uint_word(authorization.value),
            uint_word(authorization.valid_after),
            uint_word(authorization.valid_before),
            authorization.nonce,
            uint_word(7 * WORD),
        )
    )
    return TRANSFER_WITH_ANY_SIGNATURE + head + octets(authorization.signature)


def is_valid_signature(digest: bytes, signature: bytes) -> bytes:
    """Return the call data of `isValidSignature(digest, signature)` (ERC-1271)."""
    return IS_VALID_SIGNATURE + digest + uint_word(2 * WORD) + octets(signature)


def permit_transfer(permit: Permit, owner: bytes, witness: Witness) -> bytes:
    """Return the call of Permit2 that makes the transfers of `permit`: one, or several at once."""
    text, signature = octets(witness.type_string.encode()), octets(permit.settled_signature)
    permitted = [address_word(m.token) + uint_word(m.permitted) for m in permit.moves]
    details = [address_word(m.to) + uint_word(m.requested) for m in permit.moves]
    terms = uint_word(permit.nonce) + uint_word(permit.deadline)
    signed = address_word(owner) + witness.hash
    if len(permit.moves) == 1:
        start = 10 * WORD
        offsets = uint_word(start) + uint_word(start + len(text))
        return PERMIT_ONE + permitted[0] + terms + details[0] + signed + offsets + text + signature
    # Behind the head: the permit, with its list behind its own head, then the list of details.
    body = uint_word(3 * WORD) + terms + uint_word(len(permitted)) + b"".join(permitted)
    listed = uint_word(len(details)) + b"".join(details)
    tails = body, listed, text, signature
    starts = [6 * WORD + sum(map(len, tails[:i])) for i in range(len(tails))]
    at = [uint_word(start) for start in starts]
    return b"".join((PERMIT_MANY, at[0], at[1], signed, at[2], at[3], *tails))


@dataclass(frozen=True, slots=True)
class ProxySettle:
    """What a call of x402's proxy for `exact` or `upto` moves, and by which permit."""

    token: bytes
    nonce: int
    amount_minor: int
    owner: bytes
    to: bytes
    facilitator: bytes | None
    """None under `exact`, where the whole amount moves, whoever calls."""


def read_exact_settle(payload: bytes) -> ProxySettle | None:
    """Return what a call of the proxy for `exact` does; None if it is no settlement."""
    words = _settle_words(payload, {EXACT_SETTLE: 0, EXACT_SETTLE_WITH_PERMIT: 5}, 8, (0, 4, 5))
    if words is None:
        return None
    token, amount, nonce, _, owner, to = words[:6]
    return ProxySettle(
        token[12:], int.from_bytes(nonce), int.from_bytes(amount), owner[12:], to[12:], None
    )


def read_upto_settle(payload: bytes) -> ProxySettle | None:
    """Return what a call of the proxy for `upto` does; None if it is no settlement."""
    words = _settle_words(payload, {UPTO_SETTLE: 0, UPTO_SETTLE_WITH_PERMIT: 5}, 10, (0, 5, 6, 7))
    if words is None:
        return None
    token, _, nonce, _, amount, owner, to, facilitator = words[:8]
    return ProxySettle(
        token[12:],
        int.from_bytes(nonce),
        int.from_bytes(amount),
        owner[12:],
        to[12:],
        facilitator[12:],
    )


def _settle_words(
    payload: bytes, skipped: Mapping[bytes, int], least: int, addresses: tuple[int, ...]
) -> list[bytes] | None:
    """Return the words behind the token's own permit, if there is one; None for another call."""
    if (first := skipped.get(payload[:4])) is None:
        return None
    words = [payload[i : i + WORD] for i in range(4 + first * WORD, len(payload), WORD)]
    if len(words) < least or any(any(words[at][:12]) for at in addresses):
        return None
    return words


def read_permit_use(payload: bytes) -> tuple[bytes, int] | None:
    """Return whose permit a call of Permit2 uses, and which nonce of it; None for another call.

    By place: any other number in the call, its deadline say, may be the nonce of another permit.
    """
    words = [payload[i : i + WORD] for i in range(4, len(payload), WORD)]
    if payload[:4] == PERMIT_ONE and len(words) > _OWNER_OF_ONE:
        owner, nonce = words[_OWNER_OF_ONE], words[_NONCE_OF_ONE]
    elif (
        payload[:4] == PERMIT_MANY
        and words[:1] == [uint_word(6 * WORD)]
        and len(words) > _NONCE_OF_MANY
    ):
        owner, nonce = words[_OWNER_OF_MANY], words[_NONCE_OF_MANY]
    else:
        return None
    return None if any(owner[:12]) else (owner[12:], int.from_bytes(nonce))


def nonce_bitmap(owner: bytes, nonce: int) -> bytes:
    """Return the call data of `nonceBitmap(owner, nonce >> 8)` (Permit2)."""
    return NONCE_BITMAP + address_word(owner) + uint_word(nonce >> 8)


def allowance(owner: bytes, spender: bytes) -> bytes:
    """Return the call data of `allowance(owner, spender)`."""
    return ALLOWANCE + address_word(owner) + address_word(spender)


def octets(value: bytes) -> bytes:
    """Return bytes of any length as they stand behind an offset: length, then padded words."""
    return uint_word(len(value)) + value + bytes(-len(value) % WORD)


@dataclass(frozen=True, slots=True)
class Log:
    """One event of a mined transaction, in block order."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    tx_hash: str = ""


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement of tokens that a receipt must show."""

    token: bytes
    sender: bytes
    recipient: bytes
    value: int

    def is_shown_by(self, log: Log) -> bool:
        """Tell whether `log` is this very transfer, by token, both ends and value."""
        return (
            log.address == self.token
            and log.topics
            == (TRANSFER_TOPIC, address_word(self.sender), address_word(self.recipient))
            and log.data == uint_word(self.value)
        )


def authorization_paid(logs: tuple[Log, ...], nonce: bytes, expected: Transfer) -> bool:
    """Tell whether the logs of one transaction show that `nonce` paid exactly `expected`.

    EIP-3009 emits `AuthorizationUsed` and then the transfer it caused. Only the token's very next
    log counts: otherwise a payer could burn the nonce on a payment to himself, in one transaction
    with an honest payment of the same price, and be served twice for it.
    """
    own = [log for log in logs if log.address == expected.token]
    used = (AUTHORIZATION_USED_TOPIC, address_word(expected.sender), nonce)
    return any(
        before.topics == used and expected.is_shown_by(after)
        for before, after in itertools.pairwise(own)
    )


def transfers(logs: tuple[Log, ...], token: bytes) -> Iterator[tuple[Transfer, bytes | None]]:
    """Yield each transfer of `token`, with the nonce of the authorization that made it, if one did.

    As in `authorization_paid`, the log right before it says so, and only if it is of its payer.
    """
    used: tuple[bytes, ...] = ()
    for log in logs:
        if log.address != token:
            continue
        if log.topics[:1] == (TRANSFER_TOPIC,) and len(log.topics) == 3 and len(log.data) == WORD:
            sender, recipient = (word[-20:] for word in log.topics[1:])
            transfer = Transfer(token, sender, recipient, int.from_bytes(log.data))
            by_proof = used[:2] == (AUTHORIZATION_USED_TOPIC, address_word(sender))
            yield transfer, used[2] if by_proof and len(used) == 3 else None
        used = log.topics
