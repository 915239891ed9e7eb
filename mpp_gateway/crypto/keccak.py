"""Keccak-256 as Ethereum uses it: the padding from before SHA-3 was standardised."""

from Crypto.Hash import keccak


def keccak256(data: bytes) -> bytes:
    """Return the 32-byte Keccak-256 hash of `data`."""
    return keccak.new(data=data, digest_bits=256).digest()
