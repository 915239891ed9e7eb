"""The memo and the typed data of Tempo, by the worked examples that two SDKs agreed on."""

import pytest

from mpp_gateway.protocol import attribution, tempo_proof
from mpp_gateway.protocol.attribution import is_for_challenge, is_for_realm, memo_of

REALM = "api.example.com"
CHALLENGE = "_qSCNleP_OEa_jIoryG5sLEV9Tx8gsTvExjkW21kwwU"
MEMO = bytes.fromhex("ef1ed712011ece072f76bd8b82350e000000000000000000003436337181f4e4")

ZERO_CHALLENGE = "I5K3ivBZpfC9_4WWphavkzCJEcfJkfXjVgiwEw-2ie4"
ACCOUNT = bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
SIGNED = {
    "1": (
        "222d219df26056f588b4a43ee1220cff0ba982ea0964e050ae314d6310387b94",
        (
            "f3c8a5a0d60ed9f65d1aa793eaa855d96f9702bdc185b7274d5899cd94161b30"
            "265bbe50494ba7f2b7233a589407c93ab3f8315bd78cb807bfae5dca4a699a0e1c"
        ),
    ),
    "2": (
        "f7d87c42ca55a61fcace53887c0e5c5da918c6320163d6adff056a77b2323faa",
        (
            "6888d15bb3de7cf7201d6d207d64160d678bd870766dbfe336c3d4dbf15f3164"
            "451707b20f494b653899e973159a3745f1153f8f63254a1d162ac1ba31635c481b"
        ),
    ),
    "3": (
        "2450bdf231f505576f59658e05cc786d71069fec84d8036109bd1e7f264dcd98",
        (
            "00b790b6c9c5835c61cf51023d05617f24ce7609d7d48022c3635898578c9e57"
            "762cc0e82877be647e2bdfad17a1830bdcf4225b177e9916a3e446257f261cdf1c"
        ),
    ),
}


def test_the_memo_is_that_of_the_sdks():
    assert memo_of(CHALLENGE, REALM) == MEMO
    assert memo_of(CHALLENGE, REALM, "me")[15:25] == attribution.keccak256(b"me")[:10]


def test_a_memo_names_one_challenge_and_one_realm():
    assert is_for_challenge(MEMO, CHALLENGE)
    assert is_for_realm(MEMO, REALM)
    assert not is_for_challenge(MEMO, CHALLENGE + "x")
    assert not is_for_realm(MEMO, "other.example")


@pytest.mark.parametrize("memo", [MEMO[:-1], b"", b"\xab" * 32, b"\0" + MEMO[1:], MEMO + b"\0"])
def test_what_is_no_memo_of_ours_names_nothing(memo: bytes):
    assert not is_for_challenge(memo, CHALLENGE)


@pytest.mark.parametrize("version", SIGNED)
def test_every_version_of_the_proof_has_the_digest_of_the_sdks(version: str):
    digest = tempo_proof.digest(version, 42431, ACCOUNT, ZERO_CHALLENGE, REALM)

    assert digest.hex() == SIGNED[version][0]


def signed(version: str, account=ACCOUNT, challenge=ZERO_CHALLENGE, realm=REALM, chain=42431):
    signature = bytes.fromhex(SIGNED[version][1])
    return tempo_proof.is_signed_by(
        account, signature, chain_id=chain, challenge_id=challenge, realm=realm
    )


@pytest.mark.parametrize("version", SIGNED)
def test_every_version_of_the_proof_is_taken(version: str):
    assert signed(version)


@pytest.mark.parametrize("version", SIGNED)
def test_a_proof_of_somebody_or_something_else_is_refused(version: str):
    assert not signed(version, account=b"\x01" * 20)
    assert not signed(version, challenge="another")
    assert not signed(version, chain=4217)
    assert signed(version, realm="other.example") == (version == "1")
