"""`mpp-gateway pay` before several offers: which one is paid, and what of the others."""

import json

import pytest

from mpp_gateway.cli.exits import NOT_PAID, OK, USAGE
from mpp_gateway.crypto.secp256k1 import address_of
from tests.process.test_pay_stripe import LIVE, MAX, in_test_mode, moved
from tests.support.anvil import CHAIN_ID, PATH_USD, address, anvil, new_key
from tests.support.command import run
from tests.support.stripe_server import stand_in_stripe
from tests.support.stripe_shop import PRICE, stripe_shop

DOLLAR = 1_000_000
PURSE = 3 * DOLLAR


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A gateway that sells for cards and on Tempo, in this order."""
    payee = address(new_key())
    tempo = (
        f'  tempo: {{chain_id: {CHAIN_ID}, rpc_url: "{anvil().url}", currency:'
        f' "0x{PATH_USD.hex()}", recipient: "{payee}"}}\n'
    )
    folder = tmp_path_factory.mktemp("offers")
    with stand_in_stripe() as server, stripe_shop(server, folder, methods=tempo) as shop:
        shop.payee = bytes.fromhex(payee[2:])
        yield shop


@pytest.fixture
def key():
    """A new account with three dollars."""
    key = new_key()
    anvil().fund(address_of(key), PURSE)
    return key


def pay(shop, *more, key: bytes | None = None, **environ):
    """Run the command; return how it ended, what cards were charged and what Tempo has moved."""
    before, had = len(shop.server.ledger), anvil().balance(shop.payee)
    if key is not None:
        environ["MPP_PRIVATE_KEY"] = key.hex()
    url = f"http://127.0.0.1:{shop.proxy.port}/api/paid"
    rpc = ("--rpc-url", anvil().url)
    done = run("pay", url, *rpc, *more, home=shop.store.parent, **environ)
    return done, moved(shop, before), anvil().balance(shop.payee) - had


def test_the_first_that_can_be_paid_is_paid_and_no_other(shop, key):
    done, cards, tempo = pay(shop, *MAX, key=key, **in_test_mode(shop))

    assert (done.code, cards, tempo) == (OK, [("charged", PRICE)], 0), done.err
    assert done.err.count("price:") == 1


@pytest.mark.parametrize("more", [("--method", "tempo"), ("--chain", str(CHAIN_ID))])
def test_the_buyer_picks_another(shop, key, more):
    done, cards, tempo = pay(shop, *MAX, *more, key=key, **in_test_mode(shop))

    assert (done.code, cards, tempo) == (OK, [], DOLLAR), done.err


def test_what_there_is_no_key_or_token_for_is_passed_over(shop, key):
    done, cards, tempo = pay(shop, *MAX, key=key)

    assert (done.code, cards, tempo) == (OK, [], DOLLAR), done.err
    assert "method:    stripe" not in done.err


def test_an_offer_that_is_declined_leaves_the_next_and_says_why(shop, key):
    done, cards, tempo = pay(shop, *MAX, key=key, **in_test_mode(shop, LIVE))

    assert (done.code, cards, tempo) == (OK, [], DOLLAR), done.err
    assert "is no test key (sk_test_…, rk_test_…)" in done.err
    assert "; the next offer:\nprice:     1.000000\nmethod:    tempo\n" in done.err


def test_where_all_are_declined_every_reason_is_said_and_nothing_moves(shop):
    done, cards, tempo = pay(shop, *MAX, key=new_key(), **in_test_mode(shop, LIVE))

    assert (done.code, cards, tempo) == (NOT_PAID, [], 0)
    last = done.err.rstrip().rpartition("\n")[2]
    assert "is no test key" in last
    assert "the account has 0.00 of" in last
    assert last.endswith("; nothing was paid")


def test_the_limit_holds_for_each_of_them(shop, key):
    done, cards, tempo = pay(shop, key=key, **in_test_mode(shop))

    assert (done.code, cards, tempo) == (NOT_PAID, [], 0)
    assert "the price 1.00 is above --max 0.10; the price 1.000000 is above --max 0.10" in done.err


@pytest.mark.parametrize(
    ("method", "wanted"), [("tempo", "set MPP_PRIVATE_KEY"), ("stripe", "set MPP_SPT")]
)
def test_a_method_that_is_picked_says_what_it_lacks(shop, method, wanted):
    done, cards, tempo = pay(shop, *MAX, "--method", method)

    assert (done.code, cards, tempo) == (USAGE, [], 0)
    assert wanted in done.err


def test_a_dry_run_shows_the_one_that_is_picked(shop):
    done, *_ = pay(shop, "--dry-run", "--method", "tempo")

    assert (done.code, json.loads(done.out)["method"]) == (OK, "tempo")
