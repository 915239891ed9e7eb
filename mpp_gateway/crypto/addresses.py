"""Account addresses: 20 bytes inside, `0x` and 40 hex digits outside."""

import re

from mpp_gateway.crypto.keccak import keccak256

ADDRESS_BYTES = 20
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_UPPER_FROM_NIBBLE = 8


def parse_address(text: str) -> bytes:
    """Return the 20 bytes of `0x…` in any case; raises ValueError for anything else.

    Case is no part of an address: compare the bytes, never the text.
    """
    if not _ADDRESS.fullmatch(text):
        raise ValueError("not an address: 0x and 40 hex digits")
    return bytes.fromhex(text[2:])


def checksum(address: bytes) -> str:
    """Return the mixed-case form of `address` (EIP-55)."""
    if len(address) != ADDRESS_BYTES:
        raise ValueError(f"an address has {ADDRESS_BYTES} bytes")
    digits = address.hex()
    hashed = keccak256(digits.encode("ascii")).hex()
    return "0x" + "".join(
        digit.upper() if int(nibble, 16) >= _UPPER_FROM_NIBBLE else digit
        for digit, nibble in zip(digits, hashed, strict=False)
    )
