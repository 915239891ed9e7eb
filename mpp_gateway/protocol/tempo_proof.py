"""Proofs for a price of zero: EIP-712 typed data that says who asks, and pays nothing.

Three versions are in use; each newer one binds more. A signature is tried as each of them.
"""

from mpp_gateway.crypto import eip712
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address

DOMAIN_NAME = "MPP"
TYPES = {
    "3": "Proof(address account,string challengeId,string realm)",
    "2": "Proof(string challengeId,string realm)",
    "1": "Proof(string challengeId)",
}
"""The type of each version of the domain, the newest first."""


def digest(version: str, chain_id: int, account: bytes, challenge_id: str, realm: str) -> bytes:
    """Return the 32 bytes that `account` signs under a version."""
    words = [eip712.string(challenge_id)]
    if version != "1":
        words.append(eip712.string(realm))
    if version == "3":
        words.insert(0, eip712.address(account))
    domain = Eip712Domain(DOMAIN_NAME, version, chain_id, None)
    return eip712.signing_digest(
        domain, eip712.hash_struct(eip712.type_hash(TYPES[version]), *words)
    )


def is_signed_by(
    account: bytes, signature: bytes, *, chain_id: int, challenge_id: str, realm: str
) -> bool:
    """Tell whether `account` has signed the proof of this challenge, in any version."""
    for version in TYPES:
        try:
            signer = recover_address(
                digest(version, chain_id, account, challenge_id, realm), signature
            )
        except SignatureError:
            return False
        if signer == account:
            return True
    return False
