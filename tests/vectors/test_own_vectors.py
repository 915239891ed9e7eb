"""The vectors that this project publishes: fresh, and readable by the other half of the code."""

import importlib.util
import json
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from mpp_gateway.crypto import address_of, recover_address
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol import eip3009, negotiation
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.receipt import Receipt

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = Path(__file__).with_name("own.json")


@pytest.fixture(scope="module")
def script():
    loader = SourceFileLoader("vectors_script", str(REPOSITORY / "scripts" / "vectors"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def own():
    return json.loads(OWN.read_text(encoding="utf-8"))


def test_the_committed_vectors_are_what_the_code_writes_today(script):
    assert OWN.read_text(encoding="utf-8") == script.render(), "run scripts/vectors and look why"


def test_a_stale_file_is_noticed(script, tmp_path, monkeypatch):
    stale = tmp_path / "own.json"
    monkeypatch.setattr(script, "PATH", stale)
    stale.write_text(script.render() + " ", encoding="utf-8")

    assert script.main(["--check"]) == 1
    assert script.main([]) == 0
    assert script.main(["--check"]) == 0


def test_our_parsers_read_what_our_writers_wrote(own):
    keys = ChallengeKeys.from_secrets([own["secret"], own["previousSecret"]])
    for vector in own["challenges"].values():
        challenge = Challenge.parse(vector["wwwAuthenticate"])
        assert vector["id"] == challenge.id
        assert keys.verify(challenge)
        assert own["request"] == challenge.request_object
        assert own["opaque"] == challenge.opaque_object

    assert Receipt.parse(own["receipt"]).method == "evm"


def test_only_the_listed_secrets_verify(own):
    current_only = ChallengeKeys.from_secrets([own["secret"]])
    previous = Challenge.parse(own["challenges"]["previous_secret"]["wwwAuthenticate"])

    assert not current_only.verify(previous)


def test_own_authorizations_recover_to_the_key_that_signed(own):
    payer = address_of(bytes.fromhex(own["privateKey"][2:]))
    domain = Eip712Domain("USD Coin", "2", 8453, parse_address(own["request"]["currency"]))
    assert own["domainSeparator"] == f"0x{domain.separator.hex()}"

    for vector in own["authorizations"].values():
        (token,) = payment_tokens([vector["authorization"]])
        credential = Credential.parse(token)
        transfer = eip3009.Authorization.from_payload(credential.payload)
        signed = eip3009.digest(transfer, domain)
        assert vector["digest"] == f"0x{signed.hex()}"
        assert payer == transfer.sender == recover_address(signed, transfer.signature)
        challenge = credential.challenge
        assert transfer.nonce in eip3009.challenge_hashes(challenge.id, challenge.realm)


def test_own_preferences_rank_as_published(own):
    offers = [tuple(pair.split("/")) for pair in own["acceptPayment"]["offers"]]

    for header, order in own["acceptPayment"]["order"].items():
        assert order == negotiation.rank(offers, header)
