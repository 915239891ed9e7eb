"""The buyer's side: sign the transaction, or the proof, that answers a challenge."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.secp256k1 import address_of, sign
from mpp_gateway.protocol import attribution, tempo_proof
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_transaction import EXPIRING_NONCE_KEY, Call, Unsigned
from mpp_gateway.rails.tempo.request import PULL, PUSH
from mpp_gateway.rails.tempo.tip20 import Movement

LIFE_S = 25
"""Nodes of the first versions take no expiring nonce that lives for longer than 30 seconds."""
LIFE_MIN_S = 8
"""With less left, no seller has the time to send it."""
SPLITS_MAX = 10
PROOF_VERSION = "3"
_AMOUNT = re.compile(r"0|[1-9][0-9]{0,30}")
_MEMO = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Part:
    """What one payee gets; `memo` is the seller's, for a share."""

    recipient: bytes
    amount_minor: int
    memo: bytes | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a challenge asks of its payer (tempo charge draft, section "Request Schema")."""

    chain_id: int
    token: bytes
    amount_minor: int
    main: Part
    shares: tuple[Part, ...] = ()
    is_sponsored: bool = False
    """Whether the seller pays the fee of the transaction."""
    modes: tuple[str, ...] = (PULL, PUSH)
    has_memo: bool = False
    """Whether the seller wants a memo of its own, in the place of the one for this challenge."""

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> Self:
        """Return what a request object asks for; raises ValueError if it is none.

        A chain that is not named is not guessed: the draft and the SDKs guess different ones.
        """
        details = request.get("methodDetails")
        chain_id = details.get("chainId") if isinstance(details, Mapping) else None
        if not isinstance(details, Mapping) or type(chain_id) is not int or chain_id < 1:
            raise ValueError("the request names no chain")
        amount_minor = _amount(request.get("amount"))
        listed = details.get("splits", [])
        if not isinstance(listed, list) or len(listed) > SPLITS_MAX:
            raise ValueError("the request's splits are no list, or too many")
        shares = tuple(_share(split) for split in listed)
        left_minor = amount_minor - sum(share.amount_minor for share in shares)
        if shares and left_minor <= 0:
            raise ValueError("the shares leave nothing")
        modes = details.get("supportedModes", [PULL, PUSH])
        return cls(
            chain_id=chain_id,
            token=_address(request.get("currency")),
            amount_minor=amount_minor,
            main=Part(_address(request.get("recipient")), left_minor),
            shares=shares,
            is_sponsored=details.get("feePayer") is True,
            modes=tuple(map(str, modes)) if isinstance(modes, list) else (),
            has_memo="memo" in details,
        )

    def calls(self, sender: bytes, challenge: Challenge) -> tuple[Call, ...]:
        """Return the transfers that pay it: the first says for which challenge, and of whom."""
        memo = attribution.memo_of(challenge.id, challenge.realm)
        parts = (Part(self.main.recipient, self.main.amount_minor, memo), *self.shares)
        moved = (Movement(sender, p.recipient, p.amount_minor, p.memo) for p in parts)
        return tuple(Call(self.token, 0, movement.data) for movement in moved)


def transaction(
    asked: Asked, challenge: Challenge, sender: bytes, fee_token: bytes | None, valid_before: int
) -> Unsigned:
    """Return the transaction that pays it, without its gas: a node has to be asked for that."""
    return Unsigned(
        chain_id=asked.chain_id,
        max_priority_fee=0,
        max_fee=0,
        gas_limit=0,
        calls=asked.calls(sender, challenge),
        # Of two transactions with one nonce only one can be mined: an expiring one has no other.
        nonce_key=EXPIRING_NONCE_KEY,
        nonce=0,
        valid_before=valid_before,
        fee_token=None if asked.is_sponsored else fee_token,
        is_sponsored=asked.is_sponsored,
    )


def pull(challenge: Challenge, unsigned: Unsigned, private_key: bytes) -> Credential:
    """Return the credential with the signed transaction, which the seller broadcasts."""
    raw = unsigned.signed(sign(unsigned.digest, private_key))
    payload = {"type": "transaction", "signature": f"0x{raw.hex()}"}
    return Credential(challenge, payload, _source(private_key, unsigned.chain_id))


def proof(challenge: Challenge, chain_id: int, private_key: bytes) -> Credential:
    """Return the credential for a price of zero: it says who asks, and pays nothing."""
    digest = tempo_proof.digest(
        PROOF_VERSION, chain_id, address_of(private_key), challenge.id, challenge.realm
    )
    payload = {"type": "proof", "signature": f"0x{sign(digest, private_key).hex()}"}
    return Credential(challenge, payload, _source(private_key, chain_id))


def _source(private_key: bytes, chain_id: int) -> str:
    return f"did:pkh:eip155:{chain_id}:{checksum(address_of(private_key))}"


def _share(split: Any) -> Part:
    if not isinstance(split, Mapping):
        raise ValueError("a split is no object")  # noqa: TRY004 - one error for all
    amount_minor = _amount(split.get("amount"))
    if not amount_minor:
        raise ValueError("a split of nothing")
    memo = split.get("memo")
    if memo is None:
        return Part(_address(split.get("recipient")), amount_minor)
    if not isinstance(memo, str) or not _MEMO.fullmatch(memo):
        raise ValueError("a split's memo is not 32 bytes")
    return Part(_address(split.get("recipient")), amount_minor, bytes.fromhex(memo[2:]))


def _amount(value: Any) -> int:
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value):
        raise ValueError("no amount in base units")
    return int(value)


def _address(value: Any) -> bytes:
    if not isinstance(value, str):
        raise ValueError("no address")  # noqa: TRY004 - one error for all
    return parse_address(value)
