import hashlib

import pytest

from mpp_gateway import crypto
from mpp_gateway.crypto import BackendError, assert_backends, keccak256
from mpp_gateway.crypto.addresses import checksum, parse_address


def test_keccak_256_is_the_one_from_before_sha_3():
    assert keccak256(b"abc").hex() == (
        "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"
    )
    assert keccak256(b"abc") != hashlib.sha3_256(b"abc").digest()


def test_the_backends_of_this_installation_answer_rightly():
    assert_backends()


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("keccak256", lambda data: hashlib.sha3_256(data).digest()),
        ("address_of", lambda key: bytes(20)),
        ("recover_address", lambda digest, signature: bytes(20)),
    ],
)
def test_a_backend_that_answers_wrongly_is_noticed_at_start(monkeypatch, name, broken):
    monkeypatch.setattr(crypto, name, broken)

    with pytest.raises(BackendError):
        assert_backends()


@pytest.mark.parametrize(
    "text",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ],
)
def test_checksums_are_those_of_eip_55(text):
    assert checksum(parse_address(text.lower())) == text
    assert parse_address(text) == parse_address("0x" + text[2:].upper())


@pytest.mark.parametrize(
    "text", ["", "0x", "0x" + "a" * 39, "0x" + "a" * 41, "a" * 40, "0X" + "a" * 40, "0x" + "g" * 40,
             "0x" + "٣" * 40, "0x" + "a" * 40 + "\n", "\ud800"]
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="address"):
        parse_address(text)


def test_only_20_bytes_are_an_address():
    with pytest.raises(ValueError, match="20 bytes"):
        checksum(bytes(19))
