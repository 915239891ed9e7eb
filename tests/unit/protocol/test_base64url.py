import pytest

from mpp_gateway.protocol import base64url
from mpp_gateway.protocol.problems import ParseError


@pytest.mark.parametrize("text", ["YQ", "YQ=="])
def test_padding_is_optional_on_the_way_in(text):
    assert base64url.decode(text) == b"a"


def test_the_standard_alphabet_is_read_and_never_written():
    assert base64url.decode("+/+/") == base64url.decode("-_-_") == b"\xfb\xff\xbf"
    assert base64url.encode(b"\xfb\xff\xbf") == "-_-_"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "abcde",
        "YQ=",
        "YQ===",
        "YWJj=",
        "YWJj!!!!",
        "YWJj\n\n\n\n",
        "====",
        "==",
        "Y=Q",
        "=YQ",
        "=",
        "YQ\n",
        " YQ",
        "YQ\x00",
        "Y Q",
        "é",
        "YQ.",
        "\ud800",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ParseError):
        base64url.decode(text)
