"""`mpp-gateway pay` says where the money is when no receipt comes, and how to go on."""

import re

import pytest

from mpp_gateway.cli import outcome
from mpp_gateway.cli.exits import FAILED, OWED
from tests.support.command import run
from tests.support.market import open_market, pay
from tests.support.paid import fresh_key
from tests.support.process import free_port
from tests.support.upstream import OK

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "GET /first": {charge: "0.01", settle: before}
      "GET /teapot": {charge: "0.01", charge_on: [404]}
"""
AGAIN = "retry:   run the same command again"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A gateway process before a chain and an upstream, and a buyer with a purse."""
    with open_market(tmp_path_factory.mktemp("market"), ROUTES) as parts:
        yield parts


@pytest.fixture(autouse=True)
def healthy(market):
    """The upstream answers again after each test."""
    yield
    market.keeper.raw, market.keeper.keeps = OK, True


def credential_of(err: str) -> str:
    (field,) = re.findall(r"^MPP_CREDENTIAL='(Payment \S+)'$", err, re.MULTILINE)
    return field


def noted_in(err: str) -> dict[str, str]:
    """Return what a buyer who copies the last two lines has in the environment."""
    (origin,) = re.findall(r"^MPP_CREDENTIAL_FOR=(\S+) \\\n", err, re.MULTILINE)
    return {"MPP_CREDENTIAL": credential_of(err), "MPP_CREDENTIAL_FOR": origin}


def breaks(market) -> None:
    """Let the upstream hang up instead of answering: the gateway says 502."""
    market.keeper.raw, market.keeper.keeps = b"", False


def test_an_upstream_that_breaks_costs_nothing_and_is_tried_anew(market):
    before = market.balance()
    breaks(market)

    done = pay(market, "/api/paid")

    assert done.code == FAILED
    assert "HTTP 502 Bad Gateway\n" in done.err
    assert f"payment: released; nothing was charged\n{AGAIN}; it pays anew\n" in done.err
    assert "MPP_CREDENTIAL" not in done.err
    assert market.balance() == before


def test_what_was_paid_ahead_and_not_delivered_is_had_by_presenting_it_again(market):
    before = market.balance()
    breaks(market)

    done = pay(market, "/api/first")

    assert done.code == OWED
    assert "payment: credited; you have paid, and the seller owes you this call\n" in done.err
    assert f"{AGAIN}, which pays nothing more, with this before it:\n" in done.err
    assert market.balance() - before == 10_000

    market.keeper.raw, market.keeper.keeps = OK, True
    again = pay(market, "/api/first", **noted_in(done.err), MPP_PRIVATE_KEY="")

    assert (again.code, again.out) == (0, '{"ok":true}')
    assert "receipt: " in again.err
    assert market.balance() - before == 10_000


def test_a_credential_that_is_used_up_is_not_accepted_and_says_so(market):
    breaks(market)
    credential = credential_of(pay(market, "/api/first").err)
    market.keeper.raw, market.keeper.keeps = OK, True
    assert pay(market, "/api/first", MPP_CREDENTIAL=credential).code == 0

    done = pay(market, "/api/first", MPP_CREDENTIAL=credential)

    assert done.code == FAILED
    assert "payment: not accepted again: This payment has been used." in done.err
    assert "only for a new call, at a new price" in done.err


@pytest.mark.parametrize(
    ("path", "status", "code", "said"),
    [
        ("/api/paid", "500 Internal Server Error", FAILED, "not made, says the chain; nothing was"),
        (
            "/api/first",
            "500 Internal Server Error",
            OWED,
            "made, says the chain; the answer has no",
        ),
        ("/api/teapot", "404 Not Found", OWED, "made, says the chain; the answer has no receipt"),
    ],
)
def test_of_an_upstreams_own_failure_the_chain_is_asked(path, status, code, said, market):
    before = market.balance()
    market.keeper.answers(status, body=b"broken")

    done = pay(market, path)

    assert (done.code, done.out) == (code, "broken")
    assert f"payment: {said}" in done.err
    assert market.balance() - before == (10_000 if code == OWED else 0)


def test_an_outcome_that_nobody_knows_keeps_the_credential(market):
    before = market.balance()
    market.node.faults["eth_sendRawTransaction"] = "lost"
    market.node.faults["eth_getTransactionReceipt"] = "hang"
    try:
        done = pay(market, "/api/paid")
    finally:
        market.node.faults.clear()

    assert done.code == OWED
    assert "HTTP 503" in done.err
    assert "payment: not known; it may have been made, so do not pay again\n" in done.err

    again = pay(market, "/api/paid", MPP_CREDENTIAL=credential_of(done.err))
    assert (again.code, again.out) == (0, '{"ok":true}')
    assert market.balance() - before == 10_000


def test_an_answer_that_breaks_off_was_paid_for(market):
    market.keeper.raw, market.keeper.keeps = CUT, False

    done = pay(market, "/api/paid")

    assert done.code == FAILED
    assert "receipt: " in done.err
    assert "the answer broke off; it was paid for, as the receipt says" in done.err
    assert "Traceback" not in done.err


def test_a_payment_that_is_refused_says_why(market):
    done = pay(market, "/api/paid", key=fresh_key("poor"))

    assert done.code == FAILED
    assert "payment: not accepted: " in done.err


def test_a_kept_payment_is_not_called_unpaid_because_the_seller_is_gone(market):
    breaks(market)
    credential = credential_of(pay(market, "/api/first").err)
    url = f"http://127.0.0.1:{free_port()}/"

    done = run("pay", url, home=market.store.parent, MPP_CREDENTIAL=credential)

    assert done.code == OWED
    assert credential_of(done.err) == credential
    assert "nothing was paid" not in done.err


# --- without a process ----------------------------------------------------------------------------


def document(**members: str) -> bytes:
    text = ", ".join(f'"{name}": "{value}"' for name, value in members.items())
    return f"{{{text}}}".encode()


@pytest.mark.parametrize(
    ("status", "media_type", "body", "expected"),
    [
        (502, outcome.PROBLEM, document(payment="released"), outcome.RELEASED),
        (504, outcome.PROBLEM, document(payment="credited"), outcome.CREDITED),
        (503, outcome.PROBLEM, document(type="urn:x:settlement-unknown"), outcome.UNKNOWN),
        (409, outcome.PROBLEM, document(type="urn:x:payment-in-progress"), outcome.UNKNOWN),
        (500, outcome.PROBLEM, document(type="urn:x:gateway-fault"), outcome.UNKNOWN),
        (503, outcome.PROBLEM, document(type="urn:x:rail-unavailable"), outcome.RELEASED),
        (502, "application/json", document(payment="released"), None),
        (502, outcome.PROBLEM, b"[1]", None),
        (502, outcome.PROBLEM, b"{", None),
        (502, outcome.PROBLEM, document(payment="stolen"), None),
        (500, "text/html", b"<html>", None),
    ],
)
def test_an_answer_is_taken_at_its_word_and_no_further(status, media_type, body, expected):
    assert outcome.judge(status, media_type, body, is_new=True) == expected
