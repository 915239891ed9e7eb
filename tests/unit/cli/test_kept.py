"""A kept credential is a bearer right: it is presented where it was paid for, and nowhere else."""

import shlex

import pytest

from mpp_gateway.cli.exits import NOT_PAID, USAGE
from mpp_gateway.cli.kept import (
    Payment,
    check_clear_text,
    kept_credential,
    kept_key,
    origin_of,
)
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from tests.support.proxy import SECRET


def credential(realm: str) -> str:
    keys = ChallengeKeys.from_secrets([SECRET])
    challenge = keys.issue(realm=realm, method="evm", intent="charge", request="e30")
    return Credential(challenge, {"signature": "0x12"}).format()


def kept(realm: str, url: str, origin: str | None = None) -> Credential | None:
    noted = {} if origin is None else {"MPP_CREDENTIAL_FOR": origin}
    return kept_credential({"MPP_CREDENTIAL": credential(realm)} | noted, url)


@pytest.mark.parametrize(
    ("realm", "url"),
    [
        ("api.example", "https://api.example/paid"),
        ("API.example", "https://api.EXAMPLE:8443/paid"),
        ("api.example:8443", "https://api.example:8443/paid"),
        ("127.0.0.1", "http://127.0.0.1:4402/paid"),
        ("::1", "http://[::1]:4402/paid"),
        ("[::1]:4402", "http://[::1]:4402/paid"),
        ("xn--bcher-kva.example", "https://bücher.example/"),
    ],
)
def test_a_credential_is_presented_to_the_host_of_its_realm(realm, url):
    assert kept(realm, url).challenge.realm == realm


@pytest.mark.parametrize(
    ("realm", "url"),
    [
        ("api.example", "https://api.exmaple/paid"),
        ("api.example", "https://evil.example/api.example"),
        ("api.example", "https://api.example.evil.example/"),
        ("api.example", "https://example/"),
        ("api.example", "https://api.example@evil.example/"),
        ("api.example:8443", "https://api.example/paid"),
        ("api.example", "http://api.example/paid"),
        ("shop", "https://api.example/paid"),
        ("https://api.example", "https://api.example/paid"),
    ],
)
def test_a_credential_of_another_realm_or_in_clear_text_is_kept_back(realm, url):
    with pytest.raises(CommandFailed, match="nothing was sent") as refused:
        kept(realm, url)

    assert refused.value.code == USAGE
    assert "MPP_CREDENTIAL_FOR" in str(refused.value)
    assert credential(realm) not in str(refused.value)


@pytest.mark.parametrize("realm", ["shop", "api.example", "other.example"])
def test_the_noted_origin_decides_whatever_the_realm(realm):
    noted = origin_of("http://api.example:8080/paid?q=1")

    assert kept(realm, "http://api.example:8080/other", noted) is not None
    for url in ("https://api.example:8080/", "http://api.example/", f"http://{realm}.example/"):
        with pytest.raises(CommandFailed, match=r"was paid for at http://api\.example:8080"):
            kept(realm, url, noted)


@pytest.mark.parametrize("origin", ["api.example", "ftp://api.example", "https://", "https://[x"])
def test_an_origin_that_is_none_is_wrong_usage(origin):
    with pytest.raises(CommandFailed, match="MPP_CREDENTIAL_FOR is no http") as refused:
        kept("api.example", "https://api.example/", origin)

    assert refused.value.code == USAGE


def test_a_realm_cannot_repaint_the_terminal_that_refuses_it():
    challenge = Challenge("x", "\x1b[4Ashop\x9b4B", "evm", "charge", "e30")
    field = Credential(challenge, {}).format()

    with pytest.raises(CommandFailed) as refused:
        kept_credential({"MPP_CREDENTIAL": field}, "https://api.example/")

    assert str(refused.value).isprintable()


def test_without_a_credential_the_noted_origin_means_nothing():
    assert kept_credential({"MPP_CREDENTIAL_FOR": "nonsense"}, "https://api.example/") is None


@pytest.mark.parametrize(
    "url", ["https://api.example/", "http://127.0.0.1:4402/", "http://[::1]/", "http://localhost/"]
)
def test_a_payment_goes_over_tls_or_stays_on_this_machine(url):
    check_clear_text(url, NOT_PAID, is_allowed=False)


@pytest.mark.parametrize(
    "url", ["http://api.example/", "http://10.0.0.1/", "http://127.0.0.1.example/"]
)
def test_a_payment_in_clear_text_must_be_meant(url):
    with pytest.raises(CommandFailed, match="--insecure") as refused:
        check_clear_text(url, NOT_PAID, is_allowed=False)

    assert refused.value.code == NOT_PAID
    check_clear_text(url, NOT_PAID, is_allowed=True)


def test_what_is_printed_is_read_again_as_it_was():
    paid = Credential.parse(credential("shop").removeprefix("Payment "))
    payment = Payment(paid, "http://[::1]:4402", "it's `mine` $HOME")

    words = shlex.split(payment.variables().replace(" \\\n", " "))

    environ = dict(word.split("=", 1) for word in words)
    assert environ["MPP_IDEMPOTENCY_KEY"] == payment.key
    assert environ["MPP_CREDENTIAL_FOR"] == payment.origin
    assert environ["MPP_CREDENTIAL"] == payment.fields()["Authorization"]


@pytest.mark.parametrize("key", ["a b", "a\r\nX: y", "x" * 256, "ä", "a\n"])
def test_a_key_that_is_no_field_value_is_wrong_usage(key):
    with pytest.raises(CommandFailed, match="MPP_IDEMPOTENCY_KEY") as refused:
        kept_key({"MPP_IDEMPOTENCY_KEY": key})

    assert refused.value.code == USAGE
