import pytest

from mpp_gateway.crypto import address_of, keccak256, recover_address, sign
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import ORDER, SignatureError

KEY = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
DIGEST = keccak256(b"a message")
SIGNATURE = sign(DIGEST, KEY)


def test_a_known_private_key_has_its_known_address():
    assert checksum(address_of(KEY)) == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def test_a_signature_recovers_to_its_signer_with_either_numbering_of_v():
    zero_based = SIGNATURE[:64] + bytes((SIGNATURE[64] - 27,))

    assert SIGNATURE[64] in (27, 28)
    assert recover_address(DIGEST, SIGNATURE) == address_of(KEY)
    assert recover_address(DIGEST, zero_based) == address_of(KEY)


def test_signing_is_deterministic():
    assert sign(DIGEST, KEY) == SIGNATURE


def test_another_digest_recovers_to_somebody_else():
    assert recover_address(keccak256(b"another"), SIGNATURE) != address_of(KEY)


def test_the_malleated_twin_of_a_signature_is_refused():
    s = int.from_bytes(SIGNATURE[32:64], "big")
    twin = SIGNATURE[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - SIGNATURE[64],))

    with pytest.raises(SignatureError, match="upper half"):
        recover_address(DIGEST, twin)


@pytest.mark.parametrize("v", [2, 3, 26, 29, 30, 35, 37, 128, 255])
def test_any_other_v_is_refused(v):
    with pytest.raises(SignatureError, match="v is"):
        recover_address(DIGEST, SIGNATURE[:64] + bytes((v,)))


@pytest.mark.parametrize("size", [0, 1, 64, 66, 130])
def test_a_signature_of_another_size_is_refused(size):
    with pytest.raises(SignatureError, match="65 bytes"):
        recover_address(DIGEST, bytes(size))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_of_another_size_is_refused(size):
    with pytest.raises(SignatureError, match="32 bytes"):
        recover_address(bytes(size), SIGNATURE)
    with pytest.raises(SignatureError, match="32 bytes"):
        sign(bytes(size), KEY)


@pytest.mark.parametrize(
    ("r", "s"),
    [(0, 1), (1, 0), (0, 0), (ORDER, 1), (2**256 - 1, 1), (5, 1)],
)
def test_numbers_that_no_key_could_have_made_are_refused(r, s):
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + b"\x1b"

    with pytest.raises(SignatureError):
        recover_address(DIGEST, signature)


@pytest.mark.parametrize("key", [bytes(32), ORDER.to_bytes(32, "big"), b"", b"\xff" * 33])
def test_a_key_outside_the_group_signs_nothing(key):
    with pytest.raises(ValueError, match=r"."):
        sign(DIGEST, key)
