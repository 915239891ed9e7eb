"""Official clients pay a real gateway on a real Tempo chain: pull, push, and a price of zero.

pympp 0.16 pays by pull alone.
"""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from tests.peers.shop import COMMANDS
from tests.support.anvil import CHAIN_ID, anvil, new_key
from tests.support.components import need
from tests.support.tempo import PRICE, PURSE, TempoShop, tempo_shop

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /other": {charge: "0.02"}
      "GET /zero": {charge: "0"}
"""
ANSWER_S = 60

PARTNER = new_key()
WAYS = [("mppx", "pull"), ("mppx", "push"), ("pympp", "pull")]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TempoShop]:
    share = f', splits: [{{recipient: "0x{address_of(PARTNER).hex()}", percent: 10}}]'
    with tempo_shop(tmp_path_factory.mktemp("shop"), routes=ROUTES, method=share) as shop:
        yield shop


def buy(
    shop: TempoShop,
    mode: str,
    verb: str,
    *paths: str,
    purse_minor: int = PURSE,
    client: str = "mppx",
) -> list[dict]:
    """Run a client with a new purse; return the answers that it saw."""
    need(client)
    shop.key = new_key()
    shop.anvil.fund(address_of(shop.key), purse_minor)
    wallet = {
        "kind": "tempo",
        "mode": mode,
        "private_key": f"0x{shop.key.hex()}",
        "chain_id": CHAIN_ID,
        "rpc_url": shop.anvil.url,
    }
    urls = [f"http://127.0.0.1:{shop.port}/api{path}" for path in paths]
    done = subprocess.run(
        [*COMMANDS[client], verb, "GET", "", *urls],
        env={**os.environ, "PEER_WALLET": json.dumps(wallet)},
        capture_output=True,
        text=True,
        timeout=ANSWER_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("client", "mode"), WAYS)
def test_each_call_pays_its_exact_price_and_a_second_call_pays_again(
    shop: TempoShop, client: str, mode: str
):
    takings, shares, calls = shop.balance(), shop.anvil.balance(address_of(PARTNER)), shop.hits

    answers = buy(shop, mode, "pay", "/paid", "/other?city=Oslo", "/paid", client=client)

    assert [(answer["status"], answer["body"]) for answer in answers] == [(200, '{"ok":true}')] * 3
    paid = 4 * PRICE
    assert shop.balance() == takings + paid * 9 // 10
    assert shop.anvil.balance(address_of(PARTNER)) == shares + paid // 10
    assert shop.hits == calls + 3
    spent, fees = PURSE - shop.purse(), 0
    references = [answer["receipt"]["reference"] for answer in answers]
    assert len(set(references)) == 3
    for reference in references:
        mined = shop.anvil.receipt(reference)
        assert mined["status"] == "0x1"
        fees += -(-int(mined["gasUsed"], 16) * int(mined["effectiveGasPrice"], 16) // 10**12)
    assert spent == paid + fees


@pytest.mark.parametrize(("client", "mode"), WAYS)
def test_a_credential_buys_its_own_route_once_and_no_other(shop: TempoShop, client: str, mode: str):
    takings, calls = shop.balance(), shop.hits

    paths = ["/paid", "/other", "/paid?more=1", "/paid", "/paid"]
    answers = buy(shop, mode, "present", *paths, client=client)

    assert [answer["status"] for answer in answers] == [402, 402, 200, 402]
    assert shop.balance() == takings + PRICE * 9 // 10
    assert shop.hits == calls + 1


def test_a_price_of_zero_is_met_by_a_proof_and_moves_nothing(shop: TempoShop):
    calls = shop.hits

    (answer,) = buy(shop, "pull", "pay", "/zero")
    assert (answer["status"], answer["receipt"]["method"]) == (200, "tempo")
    assert answer["receipt"]["reference"] == answer["receipt"]["challengeId"]
    assert [a["status"] for a in buy(shop, "pull", "present", "/zero", "/zero", "/zero")] == [
        200,
        402,
    ]

    assert shop.purse() == PURSE
    assert shop.hits == calls + 2


def test_a_buyer_whose_fee_is_sponsored_spends_the_price_and_not_a_unit_more(
    tmp_path_factory: pytest.TempPathFactory,
):
    sponsor, chain = new_key(), anvil()
    chain.fund(address_of(sponsor), PURSE)
    method = f', sponsor: {{private_key: "0x{sponsor.hex()}"}}'
    folder = tmp_path_factory.mktemp("sponsored")
    with tempo_shop(folder, routes=ROUTES, method=method) as shop:
        # Enough to have mppx estimate the gas of a transfer, and not for a fee beside it.
        answers = buy(shop, "pull", "pay", "/paid", purse_minor=PRICE)

        assert [answer["status"] for answer in answers] == [200]
        assert (shop.balance(), shop.purse(), shop.hits) == (PRICE, 0, 1)
        mined = chain.receipt(answers[0]["receipt"]["reference"])
        fee = -(-int(mined["gasUsed"], 16) * int(mined["effectiveGasPrice"], 16) // 10**12)
        assert chain.balance(address_of(sponsor)) == PURSE - fee
