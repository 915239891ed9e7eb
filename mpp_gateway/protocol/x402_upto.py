"""x402's scheme `upto`: a buyer signs for the most, and what was used of it is moved.

Wire form: x402 "schemes/upto/scheme_upto_evm". The signature is a permit of Permit2 whose spender
is a proxy contract; its witness names the payee, and the one facilitator that may settle it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.protocol import jcs, permit2
from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.problems import InvalidPayload, ParseError

UPTO = "upto"
PROXY = bytes.fromhex("4020a4f3b7b90cca423b9fabcc0ce57c6c240002")
"""The spender of every such permit, on every chain that has it."""
OVERRIDES = "settlement-overrides"
"""Field of an upstream's answer that says what was used, as the SDKs have it."""
OVERRIDES_CHARS_MAX = 1_000

_PERMISSIONS = "TokenPermissions(address token,uint256 amount)"
_WITNESS = "Witness(address to,address facilitator,uint256 validAfter)"
_PERMIT = (
    "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,"
    "uint256 deadline,Witness witness)"
)
_PERMISSIONS_HASH = eip712.type_hash(_PERMISSIONS)
_WITNESS_HASH = eip712.type_hash(_WITNESS)
_PERMIT_HASH = eip712.type_hash(_PERMIT + _PERMISSIONS + _WITNESS)
_UINT = re.compile(r"[0-9]{1,78}")
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){65,4000}")
_PLAIN_SIGNATURE = 65


@dataclass(frozen=True, slots=True)
class UptoPermit:
    """A signed permit for at most `amount_minor`, to be settled through one facilitator."""

    owner: bytes
    token: bytes
    amount_minor: int
    spender: bytes
    nonce: int
    deadline: int
    to: bytes
    facilitator: bytes
    valid_after: int
    signature: bytes = field(repr=False)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Return the permit of a payment's `payload`; raises InvalidPayload."""
        members = _object(payload, "permit2Authorization")
        permitted, witness = _object(members, "permitted"), _object(members, "witness")
        signature = payload.get("signature")
        if not isinstance(signature, str) or not _SIGNATURE.fullmatch(signature):
            _refuse("signature")
        return cls(
            owner=_address(members, "from"),
            token=_address(permitted, "token"),
            amount_minor=_uint256(permitted, "amount"),
            spender=_address(members, "spender"),
            nonce=_uint256(members, "nonce"),
            deadline=_uint256(members, "deadline"),
            to=_address(witness, "to"),
            facilitator=_address(witness, "facilitator"),
            valid_after=_uint256(witness, "validAfter"),
            signature=bytes.fromhex(signature[2:]),
        )

    def to_payload(self) -> dict[str, Any]:
        """Return the `payload` of a payment; a key's signature has a v of 27 or 28 there."""
        signature = self.signature
        if len(signature) == _PLAIN_SIGNATURE and signature[-1] <= 1:
            signature = signature[:-1] + bytes((signature[-1] + 27,))
        return {
            "signature": "0x" + signature.hex(),
            "permit2Authorization": {
                "from": checksum(self.owner),
                "permitted": {"token": checksum(self.token), "amount": str(self.amount_minor)},
                "spender": checksum(self.spender),
                "nonce": str(self.nonce),
                "deadline": str(self.deadline),
                "witness": {
                    "to": checksum(self.to),
                    "facilitator": checksum(self.facilitator),
                    "validAfter": str(self.valid_after),
                },
            },
        }

    def digest(self, chain_id: int) -> bytes:
        """Return the 32 bytes that the payer signed, for a chain."""
        permitted = eip712.hash_struct(
            _PERMISSIONS_HASH, eip712.address(self.token), eip712.uint256(self.amount_minor)
        )
        witness = eip712.hash_struct(
            _WITNESS_HASH,
            eip712.address(self.to),
            eip712.address(self.facilitator),
            eip712.uint256(self.valid_after),
        )
        content = eip712.hash_struct(
            _PERMIT_HASH,
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


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name)
    return value if isinstance(value, Mapping) else _refuse(name)


def _address(members: Mapping[str, Any], name: str) -> bytes:
    value = members.get(name)
    try:
        return parse_address(value) if isinstance(value, str) else _refuse(name)
    except ValueError as error:
        raise InvalidPayload(f"The payment's {name} is missing or malformed.") from error


def _uint256(members: Mapping[str, Any], name: str) -> int:
    text = members.get(name)
    if not isinstance(text, str) or not _UINT.fullmatch(text):
        _refuse(name)
    value = int(text)
    return value if value <= eip712.UINT256_MAX else _refuse(name)


def _refuse(name: str) -> NoReturn:
    raise InvalidPayload(f"The payment's {name} is missing or malformed.")
