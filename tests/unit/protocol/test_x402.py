"""The wire forms of x402: what is written for each version, and what is read of the other side."""

import base64
import json

import pytest

from mpp_gateway.protocol import x402
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.problems import ParseError

TERMS = x402.Terms(
    scheme="exact",
    chain_id=84532,
    asset="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    amount_minor=1000,
    pay_to="0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65",
    extra={"name": "USDC", "version": "2"},
)
SOLD = x402.Resource("https://api.example.com/data", "Data")


def encoded(value) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def test_both_versions_say_the_same_in_their_own_words():
    ((name, text),), members = x402.required(SOLD, [TERMS], 60, "payment_required", {})

    assert name == "PAYMENT-REQUIRED"
    document = json.loads(base64.b64decode(text, validate=True))
    assert document == {
        "x402Version": 2,
        "error": "payment_required",
        "resource": {"url": SOLD.url, "description": "Data"},
        "accepts": [
            {
                "scheme": "exact",
                "network": "eip155:84532",
                "asset": TERMS.asset,
                "amount": "1000",
                "payTo": TERMS.pay_to,
                "maxTimeoutSeconds": 60,
                "extra": {"name": "USDC", "version": "2"},
            }
        ],
    }
    assert members == {
        "x402Version": 1,
        "error": "payment_required",
        "accepts": [
            {
                "scheme": "exact",
                "network": "base-sepolia",
                "maxAmountRequired": "1000",
                "resource": SOLD.url,
                "description": "Data",
                "mimeType": "",
                "payTo": TERMS.pay_to,
                "maxTimeoutSeconds": 60,
                "asset": TERMS.asset,
                "extra": {"name": "USDC", "version": "2"},
            }
        ],
    }


def test_an_offer_that_version_1_cannot_say_is_left_out_of_its_body():
    other = x402.Terms("exact", 1, TERMS.asset, 5, TERMS.pay_to, {})
    permit = x402.Terms(
        "exact", 84532, TERMS.asset, 5, TERMS.pay_to, {"assetTransferMethod": "permit2"}
    )

    ((_, text),), members = x402.required(SOLD, [other, TERMS, permit], 60, "e", {})

    # One name that an old client does not know makes it refuse the whole body.
    assert [entry["network"] for entry in members["accepts"]] == ["base-sepolia"]
    assert len(json.loads(base64.b64decode(text))["accepts"]) == 3


def test_a_body_without_an_offer_of_version_1_does_not_claim_to_be_one():
    other = x402.Terms("exact", 1, TERMS.asset, 5, TERMS.pay_to, {})
    assert x402.required(SOLD, [other], 60, "e", {})[1] == {}


def test_extensions_stand_beside_the_offers():
    ((_, text),), _ = x402.required(SOLD, [TERMS], 60, "e", {"x": {"info": {}}})
    assert json.loads(base64.b64decode(text))["extensions"] == {"x": {"info": {}}}


@pytest.mark.parametrize("padded", [True, False])
def test_a_payment_is_read_with_and_without_padding(padded: bool):
    text = encoded({"x402Version": 1, "scheme": "exact", "network": "base", "payload": {"a": ""}})
    read = x402.read(text if padded else text.rstrip("="))
    assert (read.version, read.scheme, read.chain_id, read.accepted) == (1, "exact", 8453, None)
    assert read.proof == {"a": ""}


@pytest.mark.parametrize(
    ("network", "chain_id"),
    [
        ("base", 8453),
        ("eip155:8453", 8453),
        ("eip155:08453", None),
        ("eip155:", None),
        ("eip155:1x", None),
        ("BASE", None),
        ("solana", None),
        ("eip155:99999999999999999999999", None),
    ],
)
def test_a_network_is_known_by_its_name_in_either_version(network: str, chain_id: int | None):
    assert x402.chain_of(network) == chain_id


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"x402Version": "2"},
        {"x402Version": 3},
        {"x402Version": 1.0},
        {"x402Version": True, "scheme": "exact", "network": "base", "payload": {}},
        {"x402Version": 2, "payload": {}},
        {"x402Version": 2, "accepted": [], "payload": {}},
        {"x402Version": 2, "accepted": {"scheme": 1, "network": "base"}, "payload": {}},
        {"x402Version": 1, "scheme": "exact", "payload": {}},
        {"x402Version": 1, "scheme": "exact", "network": "base"},
        {"x402Version": 1, "scheme": "exact", "network": "base", "payload": "x"},
    ],
)
def test_what_is_no_payment_does_not_parse(document):
    with pytest.raises(ParseError):
        x402.read(encoded(document))


def test_an_overlong_payment_is_not_even_decoded():
    with pytest.raises(ParseError, match="longer"):
        x402.read("A" * (x402.PAYMENT_CHARS_MAX + 1))


def test_every_payment_of_a_request_is_found_whatever_field_it_stands_in():
    head = RequestHead(
        "GET",
        "/",
        (("X-Payment", "a"), ("payment-signature", "b"), ("PAYMENT-SIGNATURE", "c"), ("x", "d")),
    )
    assert sorted(x402.payments(head)) == ["a", "b", "c"]


def test_a_settlement_is_told_in_both_versions_with_the_networks_own_names():
    told = dict(x402.response(8453, "0xpayer", "0xhash"))
    assert x402.decoded(told["PAYMENT-RESPONSE"]) == {
        "success": True,
        "transaction": "0xhash",
        "network": "eip155:8453",
        "payer": "0xpayer",
    }
    assert x402.decoded(told["X-PAYMENT-RESPONSE"])["network"] == "base"


def test_a_failure_names_no_transaction_and_its_reason():
    ((_, text),) = x402.response(1, "0xpayer", error="payment_refused")
    assert x402.decoded(text) == {
        "success": False,
        "errorReason": "payment_refused",
        "transaction": "",
        "network": "eip155:1",
        "payer": "0xpayer",
    }
