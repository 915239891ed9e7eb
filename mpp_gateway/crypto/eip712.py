"""EIP-712 typed data: only the encodings that payments need, written out."""

from dataclasses import dataclass, field

from mpp_gateway.crypto.addresses import ADDRESS_BYTES
from mpp_gateway.crypto.keccak import keccak256

WORD_BYTES = 32
UINT256_MAX = 2**256 - 1


def type_hash(encoded_type: str) -> bytes:
    """Return the hash of an `encodeType` string, such as `Mail(address to,string text)`."""
    return keccak256(encoded_type.encode("utf-8"))


def uint256(value: int) -> bytes:
    """Return one word; raises ValueError outside 0 … 2**256-1."""
    if not 0 <= value <= UINT256_MAX:
        raise ValueError("not a uint256")
    return value.to_bytes(WORD_BYTES, "big")


def address(value: bytes) -> bytes:
    """Return one word that holds a 20-byte address."""
    if len(value) != ADDRESS_BYTES:
        raise ValueError(f"an address has {ADDRESS_BYTES} bytes")
    return value.rjust(WORD_BYTES, b"\0")


def bytes32(value: bytes) -> bytes:
    """Return one word that is `value` itself; raises ValueError unless it has 32 bytes."""
    if len(value) != WORD_BYTES:
        raise ValueError("not 32 bytes")
    return value


def string(value: str) -> bytes:
    """Return one word, the hash of the text: how dynamic members are encoded."""
    return keccak256(value.encode("utf-8"))


def hash_struct(struct_type_hash: bytes, *words: bytes) -> bytes:
    """Return `hashStruct` of members that are already encoded as words."""
    return keccak256(struct_type_hash + b"".join(words))


@dataclass(frozen=True, slots=True)
class Eip712Domain:
    """Who a signature is for. Members that are None are left out of the domain type."""

    name: str
    version: str | None
    chain_id: int
    verifying_contract: bytes | None
    separator: bytes = field(init=False, repr=False, compare=False)
    """Hash of the domain, computed once."""

    def __post_init__(self) -> None:
        members, words = ["string name"], [string(self.name)]
        if self.version is not None:
            members.append("string version")
            words.append(string(self.version))
        members.append("uint256 chainId")
        words.append(uint256(self.chain_id))
        if self.verifying_contract is not None:
            members.append("address verifyingContract")
            words.append(address(self.verifying_contract))
        domain_type = type_hash(f"EIP712Domain({','.join(members)})")
        object.__setattr__(self, "separator", hash_struct(domain_type, *words))


def signing_digest(domain: Eip712Domain, struct_hash: bytes) -> bytes:
    """Return the 32 bytes that are signed: `keccak256(0x1901 ‖ domain ‖ struct)`."""
    return keccak256(b"\x19\x01" + domain.separator + struct_hash)
