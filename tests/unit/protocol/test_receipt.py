import pytest

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.receipt import Receipt

MEMBERS = {
    "method": "evm",
    "reference": "0xab",
    "status": "success",
    "timestamp": "2026-01-29T12:00:30Z",
}


def test_a_receipt_keeps_the_members_a_method_adds():
    receipt = Receipt(**MEMBERS, extra={"chainId": 8453, "challengeId": "i"})

    assert jcs.decode_object(receipt.format()) == {**MEMBERS, "chainId": 8453, "challengeId": "i"}
    assert Receipt.parse(receipt.format()) == receipt


def test_an_extra_member_never_replaces_the_reference():
    receipt = Receipt(**MEMBERS, extra={"reference": "0xother", "status": "failed"})

    assert jcs.decode_object(receipt.format()) == MEMBERS


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("value", [None, "", 1, [], "failed"])
def test_a_receipt_without_its_four_members_is_none(name, value):
    if value == "failed" and name not in ("status", "timestamp"):
        value = {}
    with pytest.raises(ParseError):
        Receipt.parse(jcs.encode_object({**MEMBERS, name: value}))


@pytest.mark.parametrize("text", ["", "!!", "W10", "A" * 70_000])
def test_what_is_no_encoded_object_is_no_receipt(text):
    with pytest.raises(ParseError):
        Receipt.parse(text)


def test_sdk_timestamps_with_fractions_are_read():
    for timestamp in ("2026-01-29T12:00:30.123Z", "2026-01-29T12:00:30.123456+00:00"):
        text = jcs.encode_object({**MEMBERS, "timestamp": timestamp})
        assert Receipt.parse(text).timestamp == timestamp
