"""Extensions of x402: what a catalogue reads of a 402, and how a buyer's own id is kept."""

import pytest
from jsonschema import Draft202012Validator, ValidationError

from mpp_gateway.protocol import x402_extensions
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.x402 import X402Payment

ACCOUNT = "eip155:84532/erc20:0xaa/0xbb"


def payment(extensions) -> X402Payment:
    return X402Payment(2, "exact", 84532, {}, {}, extensions)


def under(text: object) -> X402Payment:
    return payment({"payment-identifier": {"info": {"required": False, "id": text}}})


@pytest.mark.parametrize(
    ("method", "template", "parameters"),
    [
        ("GET", "/a/now/:city", {"city": "Oslo"}),
        ("GET", "/a/status", {}),
        ("POST", "/a/report", {}),
        ("PATCH", "/a/items/:id/*", {"id": "7"}),
        ("DELETE", "/a/*", {}),
    ],
)
def test_what_a_402_says_of_its_call_fits_its_own_schema(method, template, parameters):
    for extension in x402_extensions.offered(method, template, parameters).values():
        Draft202012Validator.check_schema(extension["schema"])
        Draft202012Validator(extension["schema"]).validate(extension["info"])


def test_the_schema_takes_no_other_method():
    listing = x402_extensions.offered("GET", "/a", {})["bazaar"]
    wrong = {"input": listing["info"]["input"] | {"method": "POST"}}
    with pytest.raises(ValidationError):
        Draft202012Validator(listing["schema"]).validate(wrong)


def test_a_rest_of_a_path_has_a_name_in_the_template():
    listing = x402_extensions.offered("GET", "/a/*", {})["bazaar"]
    assert listing["routeTemplate"] == "/a/:rest"


def test_an_id_is_the_payers_own():
    mine = x402_extensions.identifier(under("pay_0123456789abcdef"), ACCOUNT)
    theirs = x402_extensions.identifier(under("pay_0123456789abcdef"), ACCOUNT + "c")

    assert mine != theirs
    assert x402_extensions.is_identifier(mine)
    assert x402_extensions.is_unchallenged(mine)
    # What a challenge of ours is called: base64url of a MAC.
    assert not x402_extensions.is_unchallenged("ckXB" + "a" * 39)


@pytest.mark.parametrize(
    "extensions", [{}, {"payment-identifier": 1}, {"payment-identifier": {"info": []}}]
)
def test_a_buyer_without_an_id_has_none(extensions):
    assert x402_extensions.identifier(payment(extensions), ACCOUNT) is None


@pytest.mark.parametrize("text", ["a" * 15, "a" * 129, "a" * 20 + "\n", "ä" * 20, 17, True, []])
def test_an_id_of_another_form_is_refused(text):
    with pytest.raises(ParseError):
        x402_extensions.identifier(under(text), ACCOUNT)
