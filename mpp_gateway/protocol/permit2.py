"""Permit2 transfers by signature, with a witness that names the challenge (evm charge draft).

One permit moves one token, to one recipient or to several at once, out of an allowance that the
payer has given to the Permit2 contract; only the spender that was signed for can use it, once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.secp256k1 import with_recovery_of_27
from mpp_gateway.protocol import payload
from mpp_gateway.protocol.payload import Members

ADDRESS = bytes.fromhex("000000000022d473030f116ddee9f6b43ac78ba3")
"""Of the contract, on every chain that has it."""
TRANSFERS_MAX = 11
WORD = 32

_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"
_WITNESSES = (
    "PaymentWitness(bytes32 challengeHash,string externalId)",
    "PaymentWitness(bytes32 challengeHash)",
)
"""As in version 00 of the draft, which is in use, and in version 01."""
_TERMS = "address spender,uint256 nonce,uint256 deadline,"
_SINGLE = f"PermitWitnessTransferFrom(TokenPermissions permitted,{_TERMS}"
_BATCH = f"PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,{_TERMS}"
_PERMISSIONS_HASH = eip712.type_hash(_PERMISSIONS)
_NO_EXTERNAL_ID = eip712.string("")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"0x[0-9a-fA-F]{130}")


@dataclass(frozen=True, slots=True)
class Move:
    """One movement: at most `permitted` may go, `requested` goes."""

    token: bytes
    permitted: int
    to: bytes
    requested: int


@dataclass(frozen=True, slots=True)
class Witness:
    """What a permit is for; `type_string` is what its type is called behind the permit's own."""

    challenge_hash: bytes
    type: str

    @property
    def type_string(self) -> str:
        """The end of the permit's type, as the contract wants it."""
        return f"PaymentWitness witness){self.type}{_PERMISSIONS}"

    @property
    def hash(self) -> bytes:
        """The struct's hash: the one word that the contract sees of it."""
        words = [eip712.bytes32(self.challenge_hash)]
        if self.type == _WITNESSES[0]:
            words.append(_NO_EXTERNAL_ID)
        return eip712.hash_struct(eip712.type_hash(self.type), *words)


@dataclass(frozen=True, slots=True)
class Permit:
    """A signed permit as a credential carries it; who signed it is not in it."""

    moves: tuple[Move, ...]
    nonce: int
    deadline: int
    challenge_hash: bytes
    signature: bytes = field(repr=False)

    @classmethod
    def from_payload(cls, members: Members) -> Self:
        """Return the permit of a credential's payload; raises InvalidPayload."""
        permit, witness = payload.mapping(members, "permit"), payload.mapping(members, "witness")
        permitted, details = permit.get("permitted"), members.get("transferDetails")
        if not isinstance(permitted, list) or not isinstance(details, list):
            payload.refuse("transferDetails")
        if len(permitted) != len(details) or not 1 <= len(details) <= TRANSFERS_MAX:
            payload.refuse("transferDetails")
        if witness.get("externalId", "") != "":
            # No challenge of ours has one: it could not be what was signed for.
            payload.refuse("externalId")
        return cls(
            moves=tuple(map(_move, permitted, details)),
            nonce=payload.uint256(permit, "nonce"),
            deadline=payload.uint256(permit, "deadline"),
            challenge_hash=payload.octets(witness, "challengeHash", _HASH),
            signature=payload.octets(members, "signature", _SIGNATURE),
        )

    @property
    def settled_signature(self) -> bytes:
        """The signature as the contract takes it: with v of 27 or 28."""
        return with_recovery_of_27(self.signature)

    def witnesses(self) -> Iterator[Witness]:
        """Yield the forms in which the challenge may have been signed for."""
        for kind in _WITNESSES:
            yield Witness(self.challenge_hash, kind)

    def digest(self, witness: Witness, chain_id: int, spender: bytes) -> bytes:
        """Return the 32 bytes that the payer signed for `spender`."""
        hashes = [
            eip712.hash_struct(
                _PERMISSIONS_HASH, eip712.address(move.token), eip712.uint256(move.permitted)
            )
            for move in self.moves
        ]
        is_batch = len(hashes) > 1
        content = eip712.hash_struct(
            eip712.type_hash((_BATCH if is_batch else _SINGLE) + witness.type_string),
            eip712.hash_struct(b"", *hashes) if is_batch else hashes[0],
            eip712.address(spender),
            eip712.uint256(self.nonce),
            eip712.uint256(self.deadline),
            witness.hash,
        )
        return eip712.signing_digest(domain(chain_id), content)


def domain(chain_id: int) -> Eip712Domain:
    """Return the domain of the contract on a chain; it has no version."""
    return Eip712Domain("Permit2", None, chain_id, ADDRESS)


def _move(permitted: Any, detail: Any) -> Move:
    if not isinstance(permitted, Mapping) or not isinstance(detail, Mapping):
        payload.refuse("transferDetails")
    return Move(
        token=payload.address(permitted, "token"),
        permitted=payload.uint256(permitted, "amount"),
        to=payload.address(detail, "to"),
        requested=payload.uint256(detail, "requestedAmount"),
    )
