"""`mpp-gateway pay` on Tempo: a signed transaction for the seller to send, on a real chain."""

import json
import re
import time
from contextlib import contextmanager

import pytest

from mpp_gateway.cli.exits import FAILED, NOT_PAID, OK, OWED, USAGE
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from mpp_gateway.rails.tempo.wallet import FEE_MAX_MINOR
from tests.inproc.test_payment_page import ask_at, commands_of
from tests.process.test_pay_attacks import answer, problem
from tests.process.test_pay_lost_answers import BODY, bad_line
from tests.process.test_pay_outcomes import noted_in
from tests.support.anvil import CHAIN_ID, PATH_USD, new_key
from tests.support.command import Done, run
from tests.support.tempo import PRICE, PURSE, TempoShop, tempo_shop
from tests.support.upstream import OK as SERVED
from tests.support.upstream import upstream

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "POST /paid": {charge: "0.01"}
      "DELETE /paid": {charge: "0.01"}
      "GET /dear": {charge: "0.11"}
      "GET /whoami": {charge: "0"}
      "GET /first": {charge: "0.01", settle: before}
"""
FAR = "9999-12-31T23:59:59Z"
PAYEE = "0x" + "22" * 20
OTHER_TOKEN = "0x" + "33" * 20


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A gateway on a Tempo chain, before an upstream, and a buyer with a purse."""
    with tempo_shop(tmp_path_factory.mktemp("shop"), routes=ROUTES, timeouts="settle_s: 5") as shop:
        yield shop


@pytest.fixture(autouse=True)
def healthy(request):
    """Upstream and node answer again after each test, and the buyer has a new purse before."""
    if "shop" not in request.fixturenames:
        yield
        return
    shop = request.getfixturevalue("shop")
    shop.key = new_key()
    shop.chain.anvil.fund(address_of(shop.key), PURSE)
    yield
    shop.keeper.raw, shop.keeper.keeps = SERVED, True
    shop.node.faults.clear()
    shop.node.lies.clear()


def pay(shop: TempoShop, path: str, *more: str, url: str = "", **environ: str) -> Done:
    """Run the command with the buyer's key, before the shop's chain."""
    url = url or f"http://127.0.0.1:{shop.port}"
    key = {"MPP_PRIVATE_KEY": shop.key.hex()} | environ
    rpc = () if "--rpc-url" in more else ("--rpc-url", shop.node.url)
    return run("pay", f"{url}{path}", *rpc, *more, home=shop.store.parent, **key)


def receipt_in(err: str) -> dict:
    return json.loads(err.split("receipt: ")[1].split("\n", maxsplit=1)[0])


@contextmanager
def seller(paid: bytes = b"", expires: str = FAR, request: dict | None = None, **details):
    """Answers 402 with a Tempo challenge of its own making, and `paid` to whoever pays."""
    asked = {
        "amount": "1000",
        "currency": checksum(PATH_USD),
        "recipient": PAYEE,
        "methodDetails": {"chainId": CHAIN_ID, **details},
    } | (request or {})
    challenge = (
        f'Payment id="x", realm="shop", method="tempo", intent="charge",'
        f' request="{jcs.encode_object(asked)}", expires="{expires}"'
    )
    head = f"HTTP/1.1 402 Payment Required\r\nWWW-Authenticate: {challenge}\r\n"

    async def respond(seen, _, writer):
        is_paid = (seen.get("authorization") or "").startswith("Payment ")
        writer.write(paid if is_paid else f"{head}Content-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return not is_paid

    with upstream(respond) as asked_of:
        yield asked_of


def presented(asked_of) -> list[Credential]:
    fields = [seen.get("authorization") for seen in asked_of.seen]
    return [Credential.parse(field.split(" ", 1)[1]) for field in fields if field]


def fee_of(shop: TempoShop, tx_hash: str) -> int:
    """Return what a block took for a transaction, in minor units of the token of its fee."""
    receipt = shop.anvil.receipt(tx_hash)
    wei = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    return -(-wei // 10**12)


def test_a_call_costs_its_price_and_the_fee_and_has_a_receipt(shop: TempoShop):
    before = shop.balance()

    done = pay(shop, "/api/paid")

    assert (done.code, done.out) == (OK, '{"ok":true}'), done.err
    receipt = receipt_in(done.err)
    assert (receipt["method"], receipt["chainId"]) == ("tempo", CHAIN_ID)
    assert shop.balance() - before == PRICE
    fee = fee_of(shop, receipt["reference"])
    assert 0 < fee <= FEE_MAX_MINOR
    assert PURSE - shop.purse() == PRICE + fee
    assert shop.key.hex() not in done.out + done.err


def test_every_number_is_shown_and_a_dry_run_signs_nothing(shop: TempoShop):
    asked = len(shop.node.calls)

    done = pay(shop, "/api/paid", "--dry-run", MPP_PRIVATE_KEY="")

    assert (done.code, done.err) == (OK, "")
    shown = json.loads(done.out)
    assert (shown["method"], shown["price"], shown["chain_id"]) == ("tempo", "0.010000", CHAIN_ID)
    assert shown["recipient"] == shop.payee
    assert shown["fee"] == "at most 0.10 on top of the price"
    assert (shop.purse(), len(shop.node.calls)) == (PURSE, asked)


@pytest.mark.parametrize(
    ("more", "verb", "body"),
    [(("--data", "do it"), "POST", b"do it"), (("--request", "DELETE"), "DELETE", b"")],
)
def test_a_call_of_any_method_is_paid_with_its_body(shop: TempoShop, more, verb, body):
    before = shop.balance()

    done = pay(shop, "/api/paid", *more)

    assert done.code == OK, done.err
    assert (shop.upstream.seen[-1].method, shop.upstream.seen[-1].body) == (verb, body)
    assert shop.balance() - before == PRICE


@pytest.mark.parametrize(("verb", "body"), [("GET", b""), ("POST", b"do it")])
def test_the_line_of_the_payment_page_pays_as_it_stands(shop: TempoShop, verb, body, tmp_path):
    before = shop.balance()
    page = ask_at(shop.port, f"127.0.0.1:{shop.port}", verb, body).decode()
    (words,) = commands_of(page)
    (tmp_path / "body").write_bytes(body)

    # The node is the test's: the command knows that of the chain itself.
    node = ("--rpc-url", shop.node.url)
    done = run(*words[1:], *node, home=tmp_path, cwd=tmp_path, MPP_PRIVATE_KEY=shop.key.hex())

    assert done.code == OK, done.err
    assert (shop.upstream.seen[-1].method, shop.upstream.seen[-1].body) == (verb, body)
    assert shop.balance() - before == PRICE


def test_the_method_of_http_is_not_taken_for_that_of_the_payment(shop: TempoShop):
    done = pay(shop, "/api/paid", "--method", "POST")

    assert done.code == USAGE
    assert "'POST' is no payment method that this command knows" in done.err
    assert "the HTTP method is --request" in done.err


def test_a_price_of_zero_is_met_by_a_proof_and_nothing_moves(shop: TempoShop):
    before, asked = shop.balance(), len(shop.node.calls)

    done = pay(shop, "/api/whoami")

    assert (done.code, done.out) == (OK, '{"ok":true}'), done.err
    assert receipt_in(done.err)["method"] == "tempo"
    assert (shop.balance(), shop.purse(), len(shop.node.calls)) == (before, PURSE, asked)


# --- what is not paid -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "more", "environ", "code", "said"),
    [
        ("/api/dear", (), {}, NOT_PAID, "the price 0.110000 is above --max 0.10"),
        ("/api/paid", ("--max", "0.009999"), {}, NOT_PAID, "is above --max 0.009999"),
        ("/api/paid", ("--max", "0.0099999999"), {}, NOT_PAID, "is above --max 0.0099999999"),
        ("/api/paid", ("--method", "evm"), {}, NOT_PAID, "pay by evm (offered: tempo/charge)"),
        ("/api/paid", ("--chain", "8453"), {}, NOT_PAID, "on chain 8453"),
        ("/api/paid", (), {"MPP_PRIVATE_KEY": ""}, USAGE, "set MPP_PRIVATE_KEY"),
    ],
)
def test_what_is_not_paid_says_why_and_moves_nothing(
    shop: TempoShop, path, more, environ, code, said
):
    before, hits = shop.balance(), shop.hits

    done = pay(shop, path, *more, **environ)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert (shop.balance(), shop.purse(), shop.hits) == (before, PURSE, hits)


def test_a_limit_of_exactly_the_price_is_enough(shop: TempoShop):
    assert pay(shop, "/api/dear", "--max", "0.11").code == OK
    assert pay(shop, "/api/dear", "--max", "0.11 usd").code == OK


def test_a_purse_that_covers_the_price_and_not_the_fee_signs_nothing(shop: TempoShop):
    shop.key = new_key()
    shop.anvil.fund(address_of(shop.key), PRICE + 1)

    done = pay(shop, "/api/paid")

    assert done.code == NOT_PAID
    assert "nothing was paid" in done.err
    assert shop.purse() == PRICE + 1


def test_an_empty_purse_is_told_what_it_lacks(shop: TempoShop):
    shop.key = new_key()

    done = pay(shop, "/api/paid")

    assert done.code == NOT_PAID
    assert f"has 0.00 of {checksum(PATH_USD)}, and the price and its fee take 0.01" in done.err


@pytest.mark.parametrize(
    ("details", "more", "said"),
    [
        ({"chainId": 1337}, (), "chain 1337 is no network of Tempo's that is known here"),
        ({"chainId": 4217}, ("--rpc-url", "{node}"), f"the node is of chain {CHAIN_ID}, and the"),
        ({"memo": "0x" + "11" * 32}, (), "a memo of its own"),
        ({"supportedModes": ["push"]}, (), "have sent themselves (push)"),
        ({"chainId": None}, (), "no offer that this command can pay"),
        ({"splits": [{"amount": "1000", "recipient": PAYEE}]}, (), "no offer that this"),
    ],
)
def test_terms_that_are_not_known_are_refused_before_anything_is_signed(
    shop: TempoShop, details, more, said
):
    more = tuple(part.format(node=shop.node.url) for part in more)
    with seller(**details) as asked_of:
        key = shop.key.hex()
        done = run("pay", f"{asked_of.url}/", *more, home=shop.store.parent, MPP_PRIVATE_KEY=key)

    assert done.code == NOT_PAID
    assert said in done.err
    assert presented(asked_of) == []


@pytest.mark.parametrize(
    ("request_", "more", "said"),
    [
        ({"currency": OTHER_TOKEN}, ("--max", "1"), "the token did not answer"),
        ({"amount": "0.001"}, (), "no offer that this command can pay"),
        ({"amount": "-1"}, (), "no offer that this command can pay"),
        ({"amount": 1000}, (), "no offer that this command can pay"),
    ],
)
def test_units_that_are_not_those_of_the_chain_are_refused(shop: TempoShop, request_, more, said):
    with seller(request=request_) as asked_of:
        done = pay(shop, "/", *more, url=asked_of.url)

    assert done.code == NOT_PAID
    assert said in done.err
    assert presented(asked_of) == []


def test_a_token_of_other_decimals_is_not_counted_in_those_of_the_limit(shop: TempoShop):
    """A thousand whole units of a token with no decimals would be shown as 0.001."""
    shop.node.faults["eth_estimateGas"] = "error: nobody asks for this"
    shop.node.lies["eth_call"] = lambda _: "0x" + (2).to_bytes(32).hex()
    with seller(request={"currency": OTHER_TOKEN}) as asked_of:
        done = pay(shop, "/", "--max", "1", url=asked_of.url)

    assert done.code == NOT_PAID
    assert "the token has 2 decimals, and one of Tempo's has 6; nothing was paid" in done.err
    assert presented(asked_of) == []


def test_a_token_that_is_no_known_dollar_needs_a_limit_of_its_own(shop: TempoShop):
    shop.node.lies["eth_call"] = lambda _: "0x" + (6).to_bytes(32).hex()
    with seller(request={"currency": OTHER_TOKEN}) as asked_of:
        done = pay(shop, "/", url=asked_of.url)

    assert done.code == NOT_PAID
    assert "none of the dollars that are known here" in done.err
    assert presented(asked_of) == []


def test_a_limit_in_dollars_is_none_of_a_token_that_is_no_known_dollar(shop: TempoShop):
    shop.node.lies["eth_call"] = lambda _: "0x" + (6).to_bytes(32).hex()
    with seller(request={"currency": OTHER_TOKEN}) as asked_of:
        done = pay(shop, "/", "--max", "1 usd", url=asked_of.url)

    assert done.code == NOT_PAID
    assert "the price 0.001000 is in no usd that is known here, and --max is 1 usd" in done.err
    assert presented(asked_of) == []


def test_a_fee_in_another_token_than_the_price_is_shown_with_its_token(shop: TempoShop):
    shop.node.lies["eth_call"] = lambda _: "0x" + (6).to_bytes(32).hex()
    with seller(request={"currency": OTHER_TOKEN}) as asked_of:
        done = pay(shop, "/", "--dry-run", url=asked_of.url)

    assert checksum(PATH_USD) in json.loads(done.out)["fee"]


def test_an_expired_challenge_is_not_paid(shop: TempoShop):
    with seller(expires="2026-01-01T00:00:00Z") as asked_of:
        done = pay(shop, "/", url=asked_of.url)

    assert done.code == NOT_PAID
    assert "the challenge has expired; nothing was paid" in done.err
    assert presented(asked_of) == []


def test_a_node_that_lies_about_the_fee_cannot_burn_the_purse(shop: TempoShop):
    shop.node.lies["eth_getBlockByNumber"] = lambda block: block | {"baseFeePerGas": hex(10**15)}

    done = pay(shop, "/api/paid")

    assert done.code == NOT_PAID
    assert "dollars for the transaction, and this command pays 0.10" in done.err
    assert shop.purse() == PURSE


def test_a_node_that_is_silent_is_named_and_nothing_is_signed(shop: TempoShop):
    shop.node.faults["eth_estimateGas"] = "500"

    done = pay(shop, "/api/paid")

    assert (done.code, shop.purse()) == (NOT_PAID, PURSE)
    assert f"the node of chain {CHAIN_ID}: eth_estimateGas" in done.err


def test_a_transaction_ends_within_half_a_minute_whatever_the_seller_says(shop: TempoShop):
    started_s = time.time()
    with seller(paid=answer("200 OK", b"thanks")) as asked_of:
        pay(shop, "/", url=asked_of.url)

    (credential,) = presented(asked_of)
    raw = bytes.fromhex(credential.payload["signature"][2:])
    unsigned = TempoTransaction.decode(raw).unsigned
    assert started_s < unsigned.valid_before <= time.time() + 30
    assert unsigned.chain_id == CHAIN_ID


# --- what became of the first payment -------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--data", "do it")])
def test_a_lost_answer_is_fetched_with_what_was_printed_and_charged_once(
    shop: TempoShop, more, tmp_path
):
    shop.keeper.answers("200 OK", body=BODY)
    before, hits = shop.balance(), shop.hits
    with bad_line(shop) as line:
        done = pay(shop, "/api/paid", *more, url=line.url)
        noted = noted_in(done.err) | {"MPP_PRIVATE_KEY": ""}
        again = pay(shop, "/api/paid", *more, url=line.url, **noted)

    assert (done.code, again.code, again.out.encode()) == (OWED, OK, BODY)
    assert "payment: made, as the receipt says; the answer is not whole\n" in done.err
    assert (shop.balance() - before, shop.hits - hits) == (PRICE, 1)


@pytest.mark.parametrize(
    "lie",
    [
        problem("502 Bad Gateway", {"payment": "released"}),
        problem("402 Payment Required", {"detail": "no"}),
    ],
)
def test_a_seller_who_took_the_money_and_denies_it_is_not_paid_again(shop: TempoShop, lie):
    shop.keeper.answers("200 OK", body=BODY)
    before = shop.balance()
    with bad_line(shop, lie) as line:
        done = pay(shop, "/api/paid", url=line.url)
        again = pay(shop, "/api/paid", url=line.url, **noted_in(done.err), MPP_PRIVATE_KEY="")

    assert done.code == OWED
    assert "payment: made, says the chain" in done.err
    assert (again.code, again.out.encode()) == (OK, BODY)
    assert shop.balance() - before == PRICE


def test_a_payment_that_no_block_has_yet_is_kept_and_not_signed_anew(shop: TempoShop):
    before = shop.balance()
    shop.node.faults["eth_sendRawTransaction"] = "reset"
    shop.keeper.raw, shop.keeper.keeps = b"", False
    with bad_line(shop, problem("502 X", {"payment": "released"})) as line:
        done = pay(shop, "/api/paid", url=line.url)

    assert "payment: not made, says the chain; nothing was charged so far" in done.err
    assert re.search("^MPP_CREDENTIAL='Payment ", done.err, re.MULTILINE)
    assert (done.code, shop.balance()) == (FAILED, before)


def test_what_was_paid_ahead_and_not_delivered_is_had_by_presenting_it_again(shop: TempoShop):
    before = shop.balance()
    shop.keeper.raw, shop.keeper.keeps = b"", False
    done = pay(shop, "/api/first")
    assert "payment: credited; you have paid" in done.err

    shop.keeper.raw, shop.keeper.keeps = SERVED, True
    again = pay(shop, "/api/first", **noted_in(done.err), MPP_PRIVATE_KEY="")

    assert (done.code, again.code) == (OWED, OK)
    assert shop.balance() - before == PRICE
