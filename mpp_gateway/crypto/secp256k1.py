"""secp256k1 signatures over 32-byte digests, in the form that Ethereum contracts accept."""

import coincurve

from mpp_gateway.crypto.keccak import keccak256

SIGNATURE_BYTES = 65
DIGEST_BYTES = 32
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_V_OFFSET = 27


class SignatureError(ValueError):
    """The bytes are no signature that a contract would accept."""


def recover_address(digest: bytes, signature: bytes) -> bytes:
    """Return the 20-byte address that signed `digest`.

    `signature` is r ‖ s ‖ v with v of 27, 28, 0 or 1. Raises SignatureError for any other shape and
    for s in the upper half of the order (EIP-2).
    """
    if len(digest) != DIGEST_BYTES:
        raise SignatureError("a digest has 32 bytes")
    if len(signature) != SIGNATURE_BYTES:
        raise SignatureError("a signature has 65 bytes")
    v = signature[64]
    recovery_id = v - _V_OFFSET if v >= _V_OFFSET else v
    if recovery_id not in (0, 1):
        raise SignatureError("v is 27, 28, 0 or 1")
    s = int.from_bytes(signature[32:64], "big")
    # The token refuses the other half; accepting it here would deliver and never be paid.
    if s > ORDER // 2:
        raise SignatureError("s is in the upper half of the order")
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes((recovery_id,)), digest, hasher=None
        )
    except ValueError as error:
        raise SignatureError("no key signed this") from error
    return _address(key)


def sign(digest: bytes, private_key: bytes) -> bytes:
    """Return r ‖ s ‖ v with low s and v of 27 or 28, deterministic (RFC 6979)."""
    if len(digest) != DIGEST_BYTES:
        raise SignatureError("a digest has 32 bytes")
    signature = coincurve.PrivateKey(private_key).sign_recoverable(digest, hasher=None)
    return signature[:64] + bytes((signature[64] + _V_OFFSET,))


def with_recovery_of_27(signature: bytes) -> bytes:
    """Return r ‖ s ‖ v with v of 27 or 28 for 0 or 1: contracts take it in no other form.

    What is not of a key, such as a contract wallet's word (ERC-1271), stays byte for byte.
    """
    if len(signature) != SIGNATURE_BYTES or signature[-1] > 1:
        return signature
    return signature[:-1] + bytes((signature[-1] + _V_OFFSET,))


def address_of(private_key: bytes) -> bytes:
    """Return the 20-byte address of a 32-byte private key."""
    return _address(coincurve.PrivateKey(private_key).public_key)


def _address(key: coincurve.PublicKey) -> bytes:
    return keccak256(key.format(compressed=False)[1:])[-20:]
