"""The official clients pay a real gateway with shared payment tokens, before a stand-in Stripe."""

import json
import os
import subprocess

import pytest

from tests.peers.shop import ANSWER_S, COMMANDS
from tests.support.components import need
from tests.support.stripe_server import KEY, stand_in_stripe
from tests.support.stripe_shop import PRICE, StripeShop, stripe_shop

pytestmark = pytest.mark.parametrize("client", ["mppx", "pympp"])
METHODS = ["external_id: order-1, metadata: {k: v}", "capture: manual"]


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


@pytest.fixture(scope="module", params=METHODS)
def shop(request, server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripe")
    with stripe_shop(server, folder, method=request.param) as shop:
        yield shop


def do(shop: StripeShop, client: str, verb: str, *paths: str, payment_method: str = "pm_card_visa"):
    """Run the client to its end; return what it saw and the movements of money that it caused."""
    need(client)
    wallet = {
        "mint_url": f"{shop.server.url}/v1/test_helpers/shared_payment/granted_tokens",
        "mint_key": KEY,
        "payment_method": payment_method,
    }
    before = len(shop.server.ledger)
    done = subprocess.run(
        [*COMMANDS[client], verb, "GET", "", *[shop.proxy.url + path for path in paths]],
        env={**os.environ, "PEER_WALLET": json.dumps(wallet)},
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    moved = shop.server.ledger[before:]
    return json.loads(done.stdout), [(entry.kind, entry.minor) for entry in moved]


def test_each_call_is_charged_its_price_and_has_its_receipt(shop: StripeShop, client: str):
    calls = shop.hits

    answers, moved = do(shop, client, "pay", "/api/paid", "/api/dear", "/api/free")

    assert [answer["status"] for answer in answers] == [200] * 3
    assert [entry for entry in moved if entry[0] == "charged"] == [
        ("charged", PRICE),
        ("charged", 2 * PRICE),
    ]
    assert shop.hits == calls + 3
    *receipts, none = [answer["receipt"] for answer in answers]
    assert none is None
    for receipt in receipts:
        assert (receipt["method"], receipt["status"]) == ("stripe", "success")
        assert shop.server.intents[receipt["reference"]]["status"] == "succeeded"
        assert receipt.get("externalId") == shop.rail._settings.external_id


def test_a_credential_buys_its_own_route_once_and_no_other(shop: StripeShop, client: str):
    calls = shop.hits

    answers, moved = do(shop, client, "present", "/api/paid", "/api/dear", "/api/paid", "/api/paid")

    assert [answer["status"] for answer in answers] == [402, 200, 402]
    assert [entry for entry in moved if entry[0] == "charged"] == [("charged", PRICE)]
    assert shop.hits == calls + 1


def test_who_is_declined_is_told_so_and_charged_nothing(shop: StripeShop, client: str):
    calls = shop.hits

    answers, moved = do(
        shop, client, "present", "/api/paid", "/api/paid", payment_method="pm_card_declined"
    )

    assert [(answer["status"], answer["challenges"]) for answer in answers] == [(402, 1)]
    assert (moved, shop.hits) == ([], calls)
