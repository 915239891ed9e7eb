"""EIP-3009 `TransferWithAuthorization`: a signed transfer that anyone may submit, once.

Payload: MPP evm charge draft, credential type `authorization`.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Self

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import with_recovery_of_27
from mpp_gateway.protocol import payload
from mpp_gateway.protocol.payload import Members
from mpp_gateway.protocol.problems import InvalidPayload

TYPE = (
    "TransferWithAuthorization(address from,address to,uint256 value,"
    "uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
TYPE_HASH = eip712.type_hash(TYPE)
_NONCE = re.compile(r"0x[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"0x(?:[0-9a-fA-F]{2}){65,2048}")
"""65 bytes of a key, or what a contract wallet takes for a signature (ERC-1271)."""


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
    def from_payload(cls, members: Members) -> Self:
        """Return the authorization of a credential's payload; raises InvalidPayload.

        Numbers are decimal strings, bytes are hex with `0x`, the signature has 65 bytes or more.
        Members that we do not know are ignored.
        """
        if members.get("type", "authorization") != "authorization":
            raise InvalidPayload("The payload is not of the type `authorization`.")
        return cls(
            sender=payload.address(members, "from"),
            recipient=payload.address(members, "to"),
            value=payload.uint256(members, "value"),
            valid_after=payload.uint256(members, "validAfter"),
            valid_before=payload.uint256(members, "validBefore"),
            nonce=payload.octets(members, "nonce", _NONCE),
            signature=payload.octets(members, "signature", _SIGNATURE),
        )

    @property
    def settled_signature(self) -> bytes:
        """The signature as a token takes it: with v of 27 or 28 where a key has made it.

        A contract wallet gets what it was shown, byte for byte.
        """
        return with_recovery_of_27(self.signature)

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
