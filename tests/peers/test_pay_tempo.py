"""`mpp-gateway pay` buys on Tempo from mppx's own seller, which knows nothing of our code."""

import json
import shutil

import pytest

from mpp_gateway.crypto.secp256k1 import address_of
from tests.support.anvil import CHAIN_ID, PATH_USD, address, anvil, new_key
from tests.support.command import Done, run
from tests.support.components import PEERS, need
from tests.support.process import free_port, process
from tests.support.proxy import SECRET

PRICE, SHARE = 10_000, 1_000
PURSE = 1_000_000
PAYEE, PARTNER, SPONSOR = new_key(), new_key(), new_key()


@pytest.fixture(scope="module")
def url():
    need("mppx")
    anvil().fund(address_of(SPONSOR), PURSE)
    port = free_port()
    site = {
        "chain_id": CHAIN_ID,
        "currency": "0x" + PATH_USD.hex(),
        "partner": address(PARTNER),
        "port": port,
        "recipient": address(PAYEE),
        "rpc_url": anvil().url,
        "secret_key": SECRET,
        "sponsor": "0x" + SPONSOR.hex(),
    }
    node = shutil.which("node")
    assert node is not None
    command = (node, str(PEERS / "mppx" / "seller.mjs"))
    with process(*command, environ={"PEER_SITE": json.dumps(site)}) as started:
        started.wait_for_text("selling")
        yield f"http://127.0.0.1:{port}"


def buy(url: str, home, purse_minor: int = PURSE) -> tuple[Done, int]:
    """Pay with a new purse; return how it ended, and what the buyer has spent."""
    key = new_key()
    anvil().fund(address_of(key), purse_minor)
    rpc = ("--rpc-url", anvil().url)
    done = run("pay", url, *rpc, "--method", "tempo", home=home, MPP_PRIVATE_KEY=key.hex())
    return done, purse_minor - anvil().balance(address_of(key))


@pytest.mark.parametrize(("path", "share_minor"), [("/paid", 0), ("/shares", SHARE)])
def test_a_transaction_is_taken_with_its_memo_and_its_shares(url, path, share_minor, tmp_path):
    takings, shares = (anvil().balance(address_of(key)) for key in (PAYEE, PARTNER))

    done, spent = buy(url + path, tmp_path)

    assert (done.code, done.out) == (0, '{"ok":true}'), done.err
    assert anvil().balance(address_of(PAYEE)) - takings == PRICE - share_minor
    assert anvil().balance(address_of(PARTNER)) - shares == share_minor
    assert PRICE < spent < PRICE + 50_000


def test_where_mppx_pays_the_fee_the_price_is_all_that_is_spent(url, tmp_path):
    fees = anvil().balance(address_of(SPONSOR))

    done, spent = buy(f"{url}/sponsored", tmp_path, purse_minor=PRICE)

    assert (done.code, spent) == (0, PRICE), done.err
    assert anvil().balance(address_of(SPONSOR)) < fees


def test_a_proof_is_taken_for_a_price_of_zero(url, tmp_path):
    done, spent = buy(f"{url}/zero", tmp_path)

    assert (done.code, spent) == (0, 0), done.err
