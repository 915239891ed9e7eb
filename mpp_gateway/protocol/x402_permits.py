"""Permits of Permit2 that x402 buyers sign: for a price (`exact`), or for the most (`upto`).

Wire form: x402 "schemes/exact/scheme_exact_evm" (transfer method `permit2`) and
"schemes/upto/scheme_upto_evm". The spender is a proxy contract, one for each scheme. The witness
names the payee; under `upto` also the one facilitator that may settle it, for what was used.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Self

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import with_recovery_of_27
from mpp_gateway.protocol import jcs, payload, permit2
from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.payload import Members
from mpp_gateway.protocol.problems import ParseError

UPTO = "upto"
PERMIT2 = "permit2"
"""What `assetTransferMethod` says of both."""
AUTHORIZATION = "permit2Authorization"
"""The member of a payment's `payload` that is such a permit."""
EXACT_PROXY = bytes.fromhex("402085c248eea27d92e8b30b2c58ed07f9e20001")
UPTO_PROXY = bytes.fromhex("4020a4f3b7b90cca423b9fabcc0ce57c6c240002")
"""The spenders of all such permits, on every chain that has them."""
OVERRIDES = "settlement-overrides"
"""Field of an upstream's answer that says what was used, as the SDKs have it."""
OVERRIDES_CHARS_MAX = 1_000

_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"
_EXACT_WITNESS = "Witness(address to,uint256 validAfter)"
_UPTO_WITNESS = "Witness(address to,address facilitator,uint256 validAfter)"
_PERMIT = (
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,"
    "uint256 deadline,Witness witness)"
)
_PERMISSIONS_HASH = eip712.type_hash(_PERMISSIONS)
_UINT = re.compile(r"[0-9]{1,78}")
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){65,4000}")


@dataclass(frozen=True, slots=True)
class X402Permit:
    """A signed permit for `amount_minor`: all of it, or under `upto` at most."""

    owner: bytes
    token: bytes
    amount_minor: int
    spender: bytes
    nonce: int
    deadline: int
    to: bytes
    facilitator: bytes | None
    """Who alone may settle it, under `upto`; None under `exact`, where anybody may."""
    valid_after: int
    signature: bytes = field(repr=False)

    @classmethod
    def from_payload(cls, members: Members, *, by_use: bool) -> Self:
        """Return the permit of a payment's `payload`; raises InvalidPayload."""
        signed = payload.mapping(members, AUTHORIZATION)
        permitted = payload.mapping(signed, "permitted")
        witness = payload.mapping(signed, "witness")
        return cls(
            owner=payload.address(signed, "from"),
            token=payload.address(permitted, "token"),
            amount_minor=payload.uint256(permitted, "amount"),
            spender=payload.address(signed, "spender"),
            nonce=payload.uint256(signed, "nonce"),
            deadline=payload.uint256(signed, "deadline"),
            to=payload.address(witness, "to"),
            facilitator=payload.address(witness, "facilitator") if by_use else None,
            valid_after=payload.uint256(witness, "validAfter"),
            signature=payload.octets(members, "signature", _SIGNATURE),
        )

    @property
    def proxy(self) -> bytes:
        """The contract that it has to name as its spender."""
        return EXACT_PROXY if self.facilitator is None else UPTO_PROXY

    def to_payload(self) -> dict[str, Any]:
        """Return the `payload` of a payment; a key's signature has a v of 27 or 28 there."""
        signature = with_recovery_of_27(self.signature)
        named = {} if self.facilitator is None else {"facilitator": checksum(self.facilitator)}
        return {
            "signature": "0x" + signature.hex(),
            AUTHORIZATION: {
                "from": checksum(self.owner),
                "permitted": {"token": checksum(self.token), "amount": str(self.amount_minor)},
                "spender": checksum(self.spender),
                "nonce": str(self.nonce),
                "deadline": str(self.deadline),
                "witness": {
                    "to": checksum(self.to),
                    **named,
                    "validAfter": str(self.valid_after),
                },
            },
        }

    def digest(self, chain_id: int) -> bytes:
        """Return the 32 bytes that the payer signed, for a chain."""
        permitted = eip712.hash_struct(
            _PERMISSIONS_HASH, eip712.address(self.token), eip712.uint256(self.amount_minor)
        )
        kind, words = _EXACT_WITNESS, [eip712.address(self.to)]
        if self.facilitator is not None:
            kind = _UPTO_WITNESS
            words.append(eip712.address(self.facilitator))
        witness = eip712.hash_struct(
            eip712.type_hash(kind), *words, eip712.uint256(self.valid_after)
        )
        content = eip712.hash_struct(
            eip712.type_hash(_PERMIT + _PERMISSIONS + kind),
            permitted,
            eip712.address(self.spender),
            eip712.uint256(self.nonce),
            eip712.uint256(self.deadline),
            witness,
        )
        return eip712.signing_digest(permit2.domain(chain_id), content)


def used_minor(headers: Headers) -> int | None:
    """Return what an upstream says was used; None if it does not say it, or not plainly."""
    said = [value for name, value in headers if name.lower() == OVERRIDES]
    if len(said) != 1 or len(said[0]) > OVERRIDES_CHARS_MAX:
        return None
    try:
        members = jcs.loads(said[0].encode())
    except (ParseError, UnicodeEncodeError):
        return None
    amount = members.get("amount") if isinstance(members, dict) else None
    if not isinstance(amount, str) or not _UINT.fullmatch(amount):
        return None
    return int(amount)


def without_overrides(headers: Headers) -> Headers:
    """Return `headers` without what is between an upstream and the gateway."""
    return tuple((name, value) for name, value in headers if name.lower() != OVERRIDES)
