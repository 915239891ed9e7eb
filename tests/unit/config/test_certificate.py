"""A listener's certificate and key are read and compared before anything opens."""

import datetime as dt

import pytest
from cryptography.hazmat.primitives import serialization

from mpp_gateway.config.certificate import flaws
from mpp_gateway.config.model import Tls
from tests.support.certificates import END, START, self_signed

SECOND = dt.timedelta(seconds=1)
NOW = START + dt.timedelta(days=1)


@pytest.fixture
def pair(tmp_path):
    """A certificate and its key."""
    self_signed(tmp_path)
    return Tls(tmp_path / "upstream.pem", tmp_path / "upstream.key")


@pytest.fixture
def stranger(tmp_path):
    """Another certificate and its key."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    self_signed(folder)
    return Tls(folder / "upstream.pem", folder / "upstream.key")


@pytest.mark.parametrize("now", [START, NOW, END])
def test_a_certificate_with_its_key_and_in_its_time_has_no_flaw(pair, now):
    assert list(flaws(pair, now)) == []


def test_a_key_that_belongs_to_another_certificate_is_told_of_the_key(pair, stranger):
    ((name, expected),) = flaws(Tls(pair.cert, stranger.key), NOW)

    assert name == "key"
    assert expected.startswith("the private key of the certificate in `tls.cert`")


def test_the_certificate_that_would_be_shown_is_the_one_that_is_compared(pair, stranger):
    """mitmproxy reads the key's file first, and a certificate in it wins."""
    pair.key.write_bytes(stranger.cert.read_bytes() + pair.key.read_bytes())

    assert [name for name, _ in flaws(pair, NOW)] == ["key"]


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (END + SECOND, f"this one ended on {END:%Y-%m-%d %H:%M} UTC: renew it"),
        (START - SECOND, f"this one begins on {START:%Y-%m-%d %H:%M} UTC"),
    ],
)
def test_a_certificate_outside_its_time_is_told_with_its_time(pair, now, said):
    ((name, expected),) = flaws(pair, now)

    assert (name, expected) == ("cert", f"a certificate that is valid now; {said}")


def test_what_is_no_pem_is_told_of_both_files_at_once(tmp_path):
    file = tmp_path / "nonsense.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")

    assert dict(flaws(Tls(file, file), NOW)) == {
        "key": "a private key in PEM, without a passphrase",
        "cert": "a certificate in PEM, followed by the rest of its chain",
    }


def test_a_key_with_a_passphrase_is_told_as_one(pair):
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"marked-passphrase"),
        )
    )

    assert list(flaws(pair, NOW)) == [("key", "a private key in PEM, without a passphrase")]


def test_a_file_that_cannot_be_read_says_why(pair, monkeypatch):
    def refused(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(pair.key), "read_bytes", refused)

    assert dict(flaws(pair, NOW)) == {
        "key": "a file that can be read (Permission denied)",
        "cert": "a file that can be read (Permission denied)",
    }
