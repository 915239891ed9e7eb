"""What a seller is asked, and what no seller is told."""

import pytest

from mpp_gateway.cli.call import Call
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.protocol.challenge import Challenge


def challenge(realm: str) -> Challenge:
    return Challenge.parse(
        f'Payment id="{"a" * 43}", realm="{realm}", method="tempo", intent="charge", request="e30"'
    )


def call(url: str) -> Call:
    return Call("GET", url, None, {})


@pytest.mark.parametrize("realm", ["good.example.com", "example.org", "ple.com", "com.evil"])
def test_no_proof_of_who_asks_is_signed_for_somebody_elses_challenge(realm: str):
    """A seller passes another one's challenge on: the proof would be good there."""
    with pytest.raises(CommandFailed, match="nothing was signed"):
        call("https://api.example.com/x").check_realm(challenge(realm))


@pytest.mark.parametrize(
    ("url", "realm"),
    [
        ("https://api.example.com/x", "api.example.com"),
        ("https://API.example.com:8443/x", "Example.com"),
        ("http://127.0.0.1:4402/x", "api.example.com"),
    ],
)
def test_a_seller_is_proved_to_under_its_own_name(url: str, realm: str):
    call(url).check_realm(challenge(realm))
