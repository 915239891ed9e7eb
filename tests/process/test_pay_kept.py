"""`mpp-gateway pay` with a kept credential, against URLs that are not its seller's."""

import pytest

from mpp_gateway.cli.exits import OWED, USAGE
from mpp_gateway.protocol.challenge import ChallengeKeys
from mpp_gateway.protocol.credential import Credential
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
    with upstream(answering(THANKS)) as seller:
        noted = {"MPP_CREDENTIAL": credential(realm), "MPP_CREDENTIAL_FOR": seller.url}

        done = run("pay", f"{seller.url}/paid", home=tmp_path, **noted)

    assert (done.code, done.out) == (0, "thanks")
    assert [seen.get("authorization") for seen in seller.seen] == [credential(realm)]


def test_a_redirect_is_shown_and_not_followed(tmp_path):
    with upstream(MOVED) as seller:
        noted = {"MPP_CREDENTIAL": credential("127.0.0.1")}

        done = run("pay", f"{seller.url}/paid", home=tmp_path, **noted)

    assert done.code != OWED
    assert "HTTP 307 Moved\n" in done.err
    assert [seen.target for seen in seller.seen] == ["/paid"]
