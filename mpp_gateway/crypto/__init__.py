"""Hashes and signatures as pure functions over two libraries, which are checked at start."""

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import SignatureError, address_of, recover_address, sign

__all__ = [
    "BackendError",
    "SignatureError",
    "address_of",
    "assert_backends",
    "keccak256",
    "recover_address",
    "sign",
]

_EMPTY_KECCAK256 = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
_KEY_ONE = (1).to_bytes(32, "big")
_ADDRESS_ONE = "7e5f4552091a69125d5dfcb7b8c2659029395bdf"


class BackendError(RuntimeError):
    """A cryptographic library answers wrongly: nothing it says about money can be believed."""


def assert_backends() -> None:
    """Return if keccak-256 and secp256k1 give known answers; raise BackendError otherwise."""
    # `hashlib.sha3_256`, the usual mistake, differs in the padding only, and in every hash.
    if keccak256(b"").hex() != _EMPTY_KECCAK256:
        raise BackendError("the keccak backend does not compute Keccak-256")
    if address_of(_KEY_ONE).hex() != _ADDRESS_ONE:
        raise BackendError("the secp256k1 backend derives a wrong address")
    digest = keccak256(b"mpp-gateway")
    if recover_address(digest, sign(digest, _KEY_ONE)).hex() != _ADDRESS_ONE:
        raise BackendError("the secp256k1 backend recovers a wrong address")
