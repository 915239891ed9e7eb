import pytest

from mpp_gateway.crypto import address_of, recover_address, sign
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol import eip3009
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.problems import InvalidPayload

PAYLOAD = {
    "type": "authorization",
    "from": "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    "to": "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00",
    "value": "10000",
    "validAfter": "0",
    "validBefore": "1893456000",
    "nonce": "0x" + "8a" * 32,
    "signature": "0x" + "d4" * 65,
}
DOMAIN = Eip712Domain("USD Coin", "2", 8453, b"\x83" * 20)
KEY = b"\x01" * 32


def test_a_payload_is_read_into_bytes_and_integers():
    authorization = Authorization.from_payload({**PAYLOAD, "unknown": 1.5})

    assert authorization.sender.hex() == PAYLOAD["from"][2:].lower()
    assert authorization.value == 10_000
    assert authorization.valid_before == 1_893_456_000
    assert len(authorization.nonce) == 32
    assert len(authorization.signature) == 65
    assert Authorization.from_payload(authorization.to_payload()) == authorization


def test_the_type_may_be_left_out_and_no_other_type_is_taken():
    untyped = {name: value for name, value in PAYLOAD.items() if name != "type"}

    assert Authorization.from_payload(untyped) == Authorization.from_payload(PAYLOAD)
    for other in ("permit2", "", None, 1, []):
        with pytest.raises(InvalidPayload):
            Authorization.from_payload({**PAYLOAD, "type": other})


@pytest.mark.parametrize("name", [name for name in PAYLOAD if name != "type"])
@pytest.mark.parametrize(
    "value",
    [None, "", 1, True, 1.0, [], {}, b"0x", "x", "0x", "-1", "1e3", "1.0", " 1", "٣", "\ud800"],
)
def test_a_missing_or_malformed_member_is_an_invalid_payload(name, value):
    with pytest.raises(InvalidPayload):
        Authorization.from_payload({**PAYLOAD, name: value})
    with pytest.raises(InvalidPayload):
        Authorization.from_payload({key: PAYLOAD[key] for key in PAYLOAD if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", str(2**256)),
        ("value", "9" * 5_000),
        ("nonce", "0x" + "8a" * 31),
        ("nonce", "0x" + "8a" * 33),
        ("nonce", "8a" * 32),
        ("signature", "0x" + "d4" * 64),
        ("signature", "0x" + "d4" * 2_049),
        ("signature", "0x" + "d4" * 66 + "d"),
        ("from", "0X" + "aa" * 20),
        ("to", "0x" + "aa" * 21),
        ("to", "0x" + "aa" * 20 + "\n"),
    ],
)
def test_members_of_the_wrong_size_are_an_invalid_payload(name, value):
    with pytest.raises(InvalidPayload):
        Authorization.from_payload({**PAYLOAD, name: value})


def test_a_refusal_names_the_member_and_repeats_no_value():
    with pytest.raises(InvalidPayload, match="signature") as caught:
        Authorization.from_payload({**PAYLOAD, "signature": "0xfeedface"})

    assert "feedface" not in str(caught.value)


def test_the_signature_stays_out_of_repr():
    assert repr(b"\xd4" * 4)[2:-1] not in repr(Authorization.from_payload(PAYLOAD))


def test_every_field_is_signed():
    base = Authorization.from_payload(PAYLOAD)
    signed = eip3009.digest(base, DOMAIN)
    others = [
        {"from": "0x" + "11" * 20},
        {"to": "0x" + "11" * 20},
        {"value": "10001"},
        {"validAfter": "1"},
        {"validBefore": "1893456001"},
        {"nonce": "0x" + "11" * 32},
    ]

    digests = {
        eip3009.digest(Authorization.from_payload({**PAYLOAD, **other}), DOMAIN) for other in others
    }

    assert len(digests | {signed}) == len(others) + 1


def test_a_signature_for_one_token_or_chain_is_none_for_another():
    authorization = Authorization.from_payload(PAYLOAD)
    signed = eip3009.digest(authorization, DOMAIN)
    signature = sign(signed, KEY)

    for domain in (
        Eip712Domain("USD Coin", "2", 84532, b"\x83" * 20),
        Eip712Domain("USD Coin", "2", 8453, b"\x84" * 20),
        Eip712Domain("USDC", "2", 8453, b"\x83" * 20),
        Eip712Domain("USD Coin", "1", 8453, b"\x83" * 20),
    ):
        assert recover_address(eip3009.digest(authorization, domain), signature) != address_of(KEY)
    assert recover_address(signed, signature) == address_of(KEY)


def test_the_two_forms_of_the_nonce_differ_and_bind_id_and_realm():
    hashes = {
        value
        for pair in (("id", "realm"), ("id2", "realm"), ("id", "realm2"))
        for value in eip3009.challenge_hashes(*pair)
    }

    assert len(hashes) == 6
