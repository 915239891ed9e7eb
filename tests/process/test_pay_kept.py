"""`mpp-gateway pay` with a kept credential, and the places where it presents none."""

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from mpp_gateway.cli import buyer
from mpp_gateway.cli.exits import NOT_PAID, OK, OWED, USAGE
from mpp_gateway.cli.main import parser
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from tests.process.test_pay_attacks import KEY, seller, signed
from tests.support.command import run
from tests.support.proxy import SECRET
from tests.support.upstream import answering, upstream

THANKS = (
    b"HTTP/1.1 200 OK\r\nPayment-Receipt: x\r\nContent-Length: 6\r\nConnection: close\r\n\r\nthanks"
)
MOVED = b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


def credential(realm: str) -> str:
    keys = ChallengeKeys.from_secrets([SECRET])
    challenge = keys.issue(realm=realm, method="evm", intent="charge", request="e30")
    return Credential(challenge, {"signature": "0x12"}).format()


@pytest.mark.parametrize(
    ("realm", "noted"),
    [
        ("shop.example", {}),
        ("shop", {}),
        ("127.0.0.1:1", {}),
        ("127.0.0.1", {"MPP_CREDENTIAL_FOR": "http://127.0.0.1:1"}),
    ],
)
def test_a_strangers_url_gets_neither_the_credential_nor_a_connection(tmp_path, realm, noted):
    with upstream(answering(THANKS)) as stranger:
        kept = credential(realm)

        done = run("pay", f"{stranger.url}/paid", home=tmp_path, MPP_CREDENTIAL=kept, **noted)

    assert (done.code, done.out) == (USAGE, "")
    assert done.err.count("\n") == 1
    assert f"and not for {stranger.url}; nothing was sent" in done.err
    assert kept not in done.err
    assert stranger.connections == 0


@pytest.mark.parametrize("realm", ["127.0.0.1", "shop"])
def test_the_place_where_it_was_paid_for_gets_it(tmp_path, realm):
    with upstream(answering(THANKS)) as shop:
        noted = {"MPP_CREDENTIAL": credential(realm), "MPP_CREDENTIAL_FOR": shop.url}

        done = run("pay", f"{shop.url}/paid", home=tmp_path, **noted)

    assert (done.code, done.out) == (0, "thanks")
    assert [seen.get("authorization") for seen in shop.seen] == [credential(realm)]


def test_a_redirect_is_shown_and_not_followed(tmp_path):
    with upstream(MOVED) as shop:
        noted = {"MPP_CREDENTIAL": credential("127.0.0.1")}

        done = run("pay", f"{shop.url}/paid", home=tmp_path, **noted)

    assert done.code == OWED  # what was paid for is not there
    assert "HTTP 307 Moved\nlocation:  /elsewhere\n" in done.err
    assert [seen.target for seen in shop.seen] == ["/paid"]


def test_a_kept_credential_goes_in_clear_text_only_where_that_is_meant(tmp_path):
    noted = {
        "MPP_CREDENTIAL": credential("shop"),
        "MPP_CREDENTIAL_FOR": "http://shop.invalid",
    }

    done = run("pay", "http://shop.invalid/paid", home=tmp_path, **noted)
    meant = run("pay", "http://shop.invalid/paid", "--insecure", home=tmp_path, **noted)

    assert (done.code, done.out) == (USAGE, "")
    assert "http://shop.invalid is clear text" in done.err
    assert "MPP_CREDENTIAL=" not in done.err
    assert meant.code == OWED  # it was looked for, and the name has no address


@pytest.mark.parametrize(("more", "code"), [((), NOT_PAID), (("--insecure",), OK)])
def test_a_remote_price_in_clear_text_is_shown_and_not_paid(more, code, monkeypatch, capfd):
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, *rest, **named: real("127.0.0.1", *rest, **named)
    )
    monkeypatch.setenv("MPP_PRIVATE_KEY", KEY)
    with seller() as shop:
        url = f"http://shop.example:{urlsplit(shop.url).port}/"
        try:
            ended = asyncio.run(buyer.pay(parser().parse_args(["pay", url, *more])))
        except CommandFailed as refused:
            ended = refused.code

    assert ended == code
    assert "price:     0.001000" in capfd.readouterr().err
    assert len(signed(shop)) == (code == OK)
