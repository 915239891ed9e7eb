"""EIP-3009 `TransferWithAuthorization`: a signed transfer that anyone may submit, once.

Payload: MPP evm charge draft, credential type `authorization`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.protocol.problems import InvalidPayload

TYPE = (
    "TransferWithAuthorization(address from,address to,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
TYPE_HASH = eip712.type_hash(TYPE)
_UINT = re.compile(r"[0-9]{1,78}")
_NONCE = re.compile(r"0x[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){65,2048}")
"""65 bytes of a key, or what a contract wallet takes for a signature (ERC-1271)."""
_KEY_SIGNATURE_BYTES = 65


@dataclass(frozen=True, slots=True)
class Authorization:
    """A transfer of `value` minor units from `sender` to `recipient`, with its signature.

    It can be submitted while `valid_after` < time < `valid_before`, both unix seconds.
    """

    sender: bytes
    recipient: bytes
    value: int
    valid_after: int
    valid_before: int
    nonce: bytes
    signature: bytes = field(repr=False)

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """Return the authorization of a credential's payload; raises InvalidPayload.

        Numbers are decimal strings, bytes are hex with `0x`, the signature has 65 bytes or more.
        Members that we do not know are ignored.
        """
        if payload.get("type", "authorization") != "authorization":
            raise InvalidPayload("The payload is not of the type `authorization`.")
        return cls(
            sender=_address(payload, "from"),
            recipient=_address(payload, "to"),
            value=_uint256(payload, "value"),
            valid_after=_uint256(payload, "validAfter"),
            valid_before=_uint256(payload, "validBefore"),
            nonce=_hex(payload, "nonce", _NONCE),
            signature=_hex(payload, "signature", _SIGNATURE),
        )

    @property
    def settled_signature(self) -> bytes:
        """The signature as a token takes it: with v of 27 or 28 where a key has made it.

        A contract wallet gets what it was shown, byte for byte.
        """
        if len(self.signature) != _KEY_SIGNATURE_BYTES or self.signature[-1] > 1:
            return self.signature
        return self.signature[:-1] + bytes((self.signature[-1] + 27,))

    def to_payload(self) -> dict[str, str]:
        """Return the payload a client would send: the inverse of `from_payload`."""
        return {
            "type": "authorization",
            "from": f"0x{self.sender.hex()}",
            "to": f"0x{self.recipient.hex()}",
            "value": str(self.value),
            "validAfter": str(self.valid_after),
            "validBefore": str(self.valid_before),
            "nonce": f"0x{self.nonce.hex()}",
            "signature": f"0x{self.signature.hex()}",
        }


def challenge_hashes(challenge_id: str, realm: str) -> tuple[bytes, bytes]:
    """Return the two nonces that bind a transfer to a challenge: (packed, JSON array).

    The draft hashes id and realm run together, newer SDKs hash `["id","realm"]`; both are in use.
    The packed form is unambiguous only because our ids always have 43 characters.
    """
    pair = json.dumps([challenge_id, realm], ensure_ascii=False, separators=(",", ":"))
    packed = (challenge_id + realm).encode("utf-8", "surrogatepass")
    return keccak256(packed), keccak256(pair.encode("utf-8", "surrogatepass"))


def digest(authorization: Authorization, domain: eip712.Eip712Domain) -> bytes:
    """Return the 32 bytes that the payer signed for the token whose domain this is."""
    return eip712.signing_digest(
        domain,
        eip712.hash_struct(
            TYPE_HASH,
            eip712.address(authorization.sender),
            eip712.address(authorization.recipient),
            eip712.uint256(authorization.value),
            eip712.uint256(authorization.valid_after),
            eip712.uint256(authorization.valid_before),
            eip712.bytes32(authorization.nonce),
        ),
    )


def _address(payload: Mapping[str, Any], name: str) -> bytes:
    value = payload.get(name)
    try:
        return parse_address(value) if isinstance(value, str) else _refuse(name)
    except ValueError as error:
        raise InvalidPayload(f"The payload's {name} is missing or malformed.") from error


def _uint256(payload: Mapping[str, Any], name: str) -> int:
    text = payload.get(name)
    if not isinstance(text, str) or not _UINT.fullmatch(text):
        _refuse(name)
    value = int(text)
    if value > eip712.UINT256_MAX:
        _refuse(name)
    return value


def _hex(payload: Mapping[str, Any], name: str, form: re.Pattern[str]) -> bytes:
    text = payload.get(name)
    if not isinstance(text, str) or not form.fullmatch(text):
        _refuse(name)
    return bytes.fromhex(text[2:])


def _refuse(name: str) -> NoReturn:
    raise InvalidPayload(f"The payload's {name} is missing or malformed.")
