"""The memo that ties a transfer on Tempo to one challenge, as the SDKs write it.

32 bytes: tag (4) ‖ version (1) ‖ realm (10) ‖ client, or zeros (10) ‖ challenge id (7); each is the
beginning of a Keccak-256 hash.
"""

from mpp_gateway.crypto.keccak import keccak256

MEMO_BYTES = 32
_TAG = keccak256(b"mpp")[:4] + b"\x01"
_REALM = slice(5, 15)
_CLIENT_BYTES = 10
_CHALLENGE = slice(25, 32)


def memo_of(challenge_id: str, realm: str, client_id: str | None = None) -> bytes:
    """Return the memo that a buyer puts on the transfer that pays a challenge."""
    client = bytes(_CLIENT_BYTES) if client_id is None else _hash(client_id)[:_CLIENT_BYTES]
    return _TAG + _hash(realm)[:10] + client + _hash(challenge_id)[:7]


def is_one(memo: bytes) -> bool:
    """Tell whether a memo is of this form: whoever wrote it meant to pay some challenge."""
    return len(memo) == MEMO_BYTES and memo[: len(_TAG)] == _TAG


def is_for_challenge(memo: bytes, challenge_id: str) -> bool:
    """Tell whether a memo names this challenge. A challenge id is never issued by two realms."""
    return is_one(memo) and memo[_CHALLENGE] == _hash(challenge_id)[:7]


def is_for_realm(memo: bytes, realm: str) -> bool:
    """Tell whether a memo names this realm."""
    return len(memo) == MEMO_BYTES and memo[_REALM] == _hash(realm)[:10]


def _hash(text: str) -> bytes:
    return keccak256(text.encode("utf-8", "surrogatepass"))
