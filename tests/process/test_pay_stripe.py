"""`mpp-gateway pay` through Stripe, before a stand-in: with a token, or with one for a test."""

import json
import time

import pytest

from mpp_gateway.cli import commands
from mpp_gateway.cli.exits import FAILED, NOT_PAID, OK, OWED, USAGE
from mpp_gateway.cli.main import PAYMENT_METHODS, parser
from mpp_gateway.cli.means import wallets_of, what_is_wanted
from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.credential import Credential
from tests.inproc.test_payment_page import ask_at, commands_of
from tests.process.test_pay_attacks import answer, problem
from tests.process.test_pay_lost_answers import BODY, bad_line
from tests.process.test_pay_outcomes import noted_in
from tests.support.command import Done, run
from tests.support.stripe_server import KEY, PROFILE, stand_in_stripe
from tests.support.stripe_shop import PRICE, StripeShop, stripe_shop
from tests.support.upstream import upstream

ROUTES = """
      "GET /paid": {charge: "1.00"}
      "POST /paid": {charge: "1.00"}
      "GET /dear": {charge: "2.00"}
      "GET /credit": {charge: "1.00", on_failure: credit}
"""
MAX = ("--max", "1.00")
FAR = "9999-12-31T23:59:59Z"
LIVE = "sk_live_" + "x" * 20


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


@pytest.fixture(scope="module")
def shop(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stripe")
    with stripe_shop(server, folder, routes=ROUTES, method="external_id: order-1") as shop:
        shop.port = shop.proxy.port
        yield shop


@pytest.fixture(autouse=True)
def healthy(request):
    """Upstream and Stripe answer again after each test."""
    yield
    if "shop" in request.fixturenames:
        request.getfixturevalue("shop").calm()


def pay(shop: StripeShop, path: str, *more: str, url: str = "", **environ: str) -> Done:
    url = url or f"http://127.0.0.1:{shop.port}"
    return run("pay", f"{url}{path}", *more, home=shop.store.parent, **environ)


def in_test_mode(shop: StripeShop, key: str = KEY) -> dict[str, str]:
    return {"MPP_STRIPE_SECRET_KEY": key, "MPP_STRIPE_API_BASE": shop.server.url}


def moved(shop: StripeShop, before: int) -> list[tuple[str, int]]:
    return [(entry.kind, entry.minor) for entry in shop.server.ledger[before:]]


@pytest.mark.parametrize("place", ["option", "environment"])
def test_a_token_of_the_buyers_pays_a_call_and_no_text_has_it(shop: StripeShop, place: str):
    spt, before = shop.server.mint(PRICE), len(shop.server.ledger)
    given = {"MPP_SPT": spt} if place == "environment" else {}
    more = () if given else ("--spt", spt)

    done = pay(shop, "/api/paid", *MAX, *more, **given)

    assert (done.code, done.out) == (OK, "served"), done.err
    assert moved(shop, before) == [("charged", PRICE)]
    receipt = json.loads(done.err.split("receipt: ")[1])
    assert (receipt["method"], receipt["externalId"]) == ("stripe", "order-1")
    assert "price:     1.00\n" in done.err
    assert "currency:  usd\n" in done.err
    assert spt not in done.out + done.err


def test_a_test_key_has_a_token_made_for_this_price_and_this_seller_alone(shop: StripeShop):
    before, asked = len(shop.server.ledger), len(shop.server.calls("mint"))

    done = pay(shop, "/api/paid", *MAX, **in_test_mode(shop))

    assert done.code == OK, done.err
    assert moved(shop, before) == [("charged", PRICE)]
    ((given, fields),) = shop.server.calls("mint")[asked:]
    ends = int(given.pop("usage_limits[expires_at]"))
    assert given == {
        "payment_method": "pm_card_visa",
        "usage_limits[currency]": "usd",
        "usage_limits[max_amount]": str(PRICE),
        "seller_details[network_id]": PROFILE,
    }
    assert time.time() < ends <= time.time() + 3600
    assert fields["stripe-version"].endswith(".preview")
    assert KEY not in done.out + done.err


def test_the_card_of_the_test_is_the_buyers_choice(shop: StripeShop):
    before = len(shop.server.ledger)

    done = pay(
        shop, "/api/paid", *MAX, "--payment-method", "pm_card_declined", **in_test_mode(shop)
    )

    assert (done.code, moved(shop, before)) == (FAILED, [])
    assert "HTTP 402" in done.err


def test_a_post_is_paid_with_its_body(shop: StripeShop):
    done = pay(shop, "/api/paid", *MAX, "--data", "do it", **in_test_mode(shop))

    assert done.code == OK, done.err
    assert (shop.upstream.seen[-1].method, shop.upstream.seen[-1].body) == ("POST", b"do it")


@pytest.mark.parametrize(("verb", "body"), [("GET", b""), ("POST", b"do it")])
def test_the_line_of_the_payment_page_pays_as_it_stands(shop: StripeShop, verb, body, tmp_path):
    before, spt = len(shop.server.ledger), shop.server.mint(PRICE)
    page = ask_at(shop.port, f"127.0.0.1:{shop.port}", verb, body).decode()
    (words,) = commands_of(page)
    (tmp_path / "body").write_bytes(body)

    done = run(*words[1:], home=tmp_path, cwd=tmp_path, MPP_SPT=spt)

    assert done.code == OK, done.err
    assert (shop.upstream.seen[-1].method, shop.upstream.seen[-1].body) == (verb, body)
    assert moved(shop, before) == [("charged", PRICE)]


# --- what is not paid -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "environ", "code", "said"),
    [
        ((), {}, NOT_PAID, "the price 1.00 is above --max 0.10; nothing was paid"),
        (("--max", "0.99"), {}, NOT_PAID, "the price 1.00 usd is above --max 0.99"),
        (MAX, {"MPP_STRIPE_SECRET_KEY": ""}, USAGE, "set MPP_SPT, or --spt, to a shared payment"),
        (MAX, {"MPP_STRIPE_SECRET_KEY": LIVE}, NOT_PAID, "is no test key (sk_test_…, rk_test_…)"),
        (MAX, {"MPP_STRIPE_SECRET_KEY": "sk_test_other"}, NOT_PAID, "HTTP 401 invalid_api_key"),
        (MAX, {"MPP_STRIPE_API_BASE": "http://stripe.example"}, USAGE, "is no https:// URL"),
        (MAX, {"MPP_SPT": "sk_test_1"}, USAGE, "MPP_SPT is no shared payment token"),
        ((*MAX, "--spt", "4242"), {}, USAGE, "--spt is no shared payment token"),
        ((*MAX, "--chain", "8453"), {}, NOT_PAID, "pay on chain 8453 (offered: stripe/charge)"),
    ],
)
def test_what_is_not_paid_says_why_and_charges_nothing(shop: StripeShop, more, environ, code, said):
    before, hits = len(shop.server.asked), shop.hits

    done = pay(shop, "/api/paid", *more, **(in_test_mode(shop) | environ))

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert LIVE not in done.err
    asked = [verb for verb, *_ in shop.server.asked[before:]]
    assert (asked in ([], ["mint"]), shop.hits) == (True, hits)


def test_a_live_key_is_shown_to_nobody(shop: StripeShop):
    before = len(shop.server.asked)

    pay(shop, "/api/paid", *MAX, **in_test_mode(shop, LIVE))

    assert len(shop.server.asked) == before


def challenged(currency: str, expires: str = FAR, paid: str = "200 OK"):
    """A seller of its own making, who thanks whoever pays, and gives no receipt."""
    request = {
        "amount": "1000",
        "currency": currency,
        "methodDetails": {"networkId": PROFILE, "paymentMethodTypes": ["card"]},
    }
    challenge = (
        f'Payment id="x", realm="shop", method="stripe", intent="charge",'
        f' request="{jcs.encode_object(request)}", expires="{expires}"'
    )
    head = f"HTTP/1.1 402 Payment Required\r\nWWW-Authenticate: {challenge}\r\n"

    async def respond(seen, _, writer):
        is_paid = seen.get("authorization") is not None
        unpaid = f"{head}Content-Length: 0\r\n\r\n".encode()
        writer.write(answer(paid, b"thanks") if is_paid else unpaid)
        await writer.drain()
        return not is_paid

    return upstream(respond)


@pytest.mark.parametrize(
    ("currency", "more", "code", "said"),
    [
        ("usd", ("--max", "10"), OK, "price:     10.00\n"),
        ("usd", ("--max", "9.99"), NOT_PAID, "the price 10.00 is above --max 9.99"),
        ("jpy", ("--max", "1000"), OK, "price:     1000\n"),
        ("jpy", ("--max", "10"), NOT_PAID, "the price 1000 is above --max 10"),
        ("jpy", ("--max", "999.9"), NOT_PAID, "the price 1000 is above --max 999.9"),
        ("usd", ("--max", "10 usd"), OK, "price:     10.00\n"),
        ("eur", ("--max", "10.00 EUR"), OK, "price:     10.00\n"),
        ("usd", ("--max", "9.99 usd"), NOT_PAID, "the price 10.00 is above --max 9.99 usd"),
        ("gbp", ("--max", "10 usd"), NOT_PAID, "the price 10.00 is in no usd that is known here"),
        ("jpy", ("--max", "1000 usd"), NOT_PAID, "the price 1000 is in no usd that is known"),
        ("eur", (), NOT_PAID, "none of the dollars that are known here"),
        ("jpy", (), NOT_PAID, "none of the dollars that are known here"),
    ],
)
def test_the_limit_is_in_whole_units_of_the_currency_whatever_decimals_it_has(
    tmp_path, currency, more, code, said
):
    with challenged(currency) as asked_of:
        done = run("pay", f"{asked_of.url}/", *more, home=tmp_path, MPP_SPT="spt_1")

    assert done.code == code
    assert said in done.err
    sent = [s.get("authorization") for s in asked_of.seen if s.get("authorization")]
    payloads = [Credential.parse(text.split(" ", 1)[1]).payload for text in sent]
    assert payloads == ([{"spt": "spt_1"}] if code == OK else [])


def test_an_expired_challenge_gets_no_token(tmp_path):
    with challenged("usd", expires="2026-01-01T00:00:00Z") as asked_of:
        done = run("pay", f"{asked_of.url}/", "--max", "10", home=tmp_path, MPP_SPT="spt_1")

    assert (done.code, len(asked_of.seen)) == (NOT_PAID, 1)
    assert "the challenge has expired; nothing was paid" in done.err


def test_silence_after_a_token_names_no_chain_to_ask(tmp_path):
    with challenged("usd", paid="404 Not Found") as asked_of:
        done = run("pay", f"{asked_of.url}/", "--max", "10", home=tmp_path, MPP_SPT="spt_1")

    assert done.code == OWED
    assert "presents the same payment and signs no second one" in done.err
    assert "payment: no receipt came with this answer" in done.err
    assert "--rpc-url" not in done.err


# --- what became of the first payment -------------------------------------------------------------


def test_a_lost_answer_is_fetched_with_what_was_printed_and_charged_once(shop: StripeShop):
    shop.keeper.answers("200 OK", body=BODY)
    before, hits = len(shop.server.ledger), shop.hits
    with bad_line(shop) as line:
        done = pay(shop, "/api/paid", *MAX, url=line.url, **in_test_mode(shop))
        again = pay(
            shop, "/api/paid", *MAX, url=line.url, **in_test_mode(shop), **noted_in(done.err)
        )

    assert (done.code, again.code, again.out.encode()) == (OWED, OK, BODY)
    assert (moved(shop, before), shop.hits - hits) == ([("charged", PRICE)], 1)


def test_the_same_token_without_what_was_printed_is_not_charged_twice(shop: StripeShop):
    """Stripe would charge a token up to its limit: the gateway takes each of them once."""
    spt, before = shop.server.mint(2 * PRICE), len(shop.server.ledger)
    shop.keeper.answers("200 OK", body=BODY)
    with bad_line(shop) as line:
        done = pay(shop, "/api/paid", *MAX, "--spt", spt, url=line.url)
        again = pay(shop, "/api/paid", *MAX, "--spt", spt, url=line.url)

    assert (done.code, again.code) == (OWED, OWED)
    assert "MPP_CREDENTIAL='Payment " in again.err
    assert moved(shop, before) == [("charged", PRICE)]


@pytest.mark.parametrize(
    "lie",
    [
        problem("502 Bad Gateway", {"payment": "released"}),
        problem("402 Payment Required", {"detail": "no"}),
    ],
)
def test_a_seller_who_denies_a_charge_is_shown_the_same_token_again(shop: StripeShop, lie):
    shop.keeper.answers("200 OK", body=BODY)
    before, minted = len(shop.server.ledger), len(shop.server.calls("mint"))
    with bad_line(shop, lie) as line:
        done = pay(shop, "/api/paid", *MAX, url=line.url, **in_test_mode(shop))
        again = pay(
            shop, "/api/paid", *MAX, url=line.url, **in_test_mode(shop), **noted_in(done.err)
        )

    assert "presents the same payment and signs no second one" in done.err
    assert (again.code, again.out.encode()) == (OK, BODY)
    assert moved(shop, before) == [("charged", PRICE)]
    assert len(shop.server.calls("mint")) - minted == 1


def test_a_call_that_is_owed_is_had_by_presenting_it_again(shop: StripeShop):
    before = len(shop.server.ledger)
    shop.keeper.raw, shop.keeper.keeps = b"", False
    done = pay(shop, "/api/credit", *MAX, **in_test_mode(shop))
    assert (done.code, "payment: credited" in done.err) == (OWED, True)

    shop.calm()
    again = pay(shop, "/api/credit", **noted_in(done.err))

    assert (again.code, again.out) == (OK, "served")
    assert moved(shop, before) == [("charged", PRICE)]


def test_money_that_is_sent_back_is_said_to_be(shop: StripeShop):
    shop.keeper.raw, shop.keeper.keeps = b"", False

    done = pay(shop, "/api/paid", *MAX, **in_test_mode(shop))

    assert done.code == OWED
    assert "payment: refunding" in done.err


# --- the command line -----------------------------------------------------------------------------


def test_each_payment_method_has_a_wallet_and_says_what_it_wants():
    options = parser().parse_args(["pay", "http://127.0.0.1/"])
    wallets = wallets_of(options, {}, signs=True)

    assert tuple(wallet.method for wallet in wallets) == PAYMENT_METHODS
    assert not [wallet for wallet in wallets if wallet.can_sign]
    assert all("set MPP_" in what_is_wanted(method) for method in PAYMENT_METHODS)
    assert options.run is commands.pay
