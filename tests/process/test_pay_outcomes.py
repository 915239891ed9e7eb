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
      "GET /brief": {charge: "0.01", timeouts: {settle_s: 1}}
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
    """Return what a buyer who copies the last lines has in the environment."""
    noted = dict(re.findall(r"^(MPP_\w+)=(\S+) \\$", err, re.MULTILINE))
    assert set(noted) <= {"MPP_CREDENTIAL_FOR", "MPP_IDEMPOTENCY_KEY"}
    return noted | {"MPP_CREDENTIAL": credential_of(err)}


def breaks(market) -> None:
    """Let the upstream hang up instead of answering: the gateway says 502."""
    market.keeper.raw, market.keeper.keeps = b"", False


def test_a_call_that_broke_costs_nothing_and_is_had_for_the_same_payment(market):
    before = market.balance()
    breaks(market)

    done = pay(market, "/api/paid")

    assert done.code == FAILED
    assert "HTTP 502 Bad Gateway\n" in done.err
    said = "not made, says the chain; nothing was charged so far"
    assert f"payment: {said}\n{AGAIN}, which presents the same payment" in done.err
    assert market.balance() == before

    market.keeper.raw, market.keeper.keeps = OK, True
    again = pay(market, "/api/paid", **noted_in(done.err), MPP_PRIVATE_KEY="")
    assert (again.code, again.out) == (0, '{"ok":true}')
    assert market.balance() - before == 10_000


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


def test_a_used_credential_has_bought_its_answer_and_has_it_under_its_key_alone(market):
    before = market.balance()
    breaks(market)
    noted = noted_in(pay(market, "/api/first").err)
    market.keeper.raw, market.keeper.keeps = OK, True
    assert pay(market, "/api/first", **noted).code == 0

    done = pay(market, "/api/first", **(noted | {"MPP_IDEMPOTENCY_KEY": "another"}))

    assert done.code == FAILED
    assert "payment: made before: the seller says that it has bought its answer" in done.err
    assert "under the key of the first try" in done.err
    assert "only for a new call, at a new price" in done.err
    hits = market.hits
    again = pay(market, "/api/first", **noted)
    assert (again.code, again.out) == (0, '{"ok":true}')
    assert (market.hits, market.balance() - before) == (hits, 10_000)


@pytest.mark.parametrize(
    ("path", "status", "code", "said"),
    [
        ("/api/paid", "500 Internal Server Error", FAILED, "not made, says the chain; nothing was"),
        (
            "/api/first",
            "422 No",
            OWED,
            "made, says the chain; the answer has no",
        ),
        ("/api/teapot", "404 Not Found", OWED, "made, says the chain; the answer has no receipt"),
        ("/api/first", "302 Found", OWED, "made, says the chain; the answer has no receipt"),
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
        done = pay(market, "/api/brief")
    finally:
        market.node.faults.clear()

    assert done.code == OWED
    assert "HTTP 503" in done.err
    assert "payment: not known; it may have been made, so do not pay again\n" in done.err

    again = pay(market, "/api/brief", MPP_CREDENTIAL=credential_of(done.err))
    assert (again.code, again.out) == (0, '{"ok":true}')
    assert market.balance() - before == 10_000


def test_an_answer_that_breaks_off_was_paid_for(market):
    market.keeper.raw, market.keeper.keeps = CUT, False

    done = pay(market, "/api/paid")

    assert done.code == OWED
    assert "receipt: " in done.err
    assert "payment: made, as the receipt says; the answer is not whole\n" in done.err
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
        (409, outcome.PROBLEM, document(type="urn:x:payment-in-progress"), outcome.IN_PROGRESS),
        (500, outcome.PROBLEM, document(type="urn:x:gateway-fault"), outcome.UNKNOWN),
        (503, outcome.PROBLEM, document(type="urn:x:rail-unavailable"), outcome.RELEASED),
        (502, "application/json", document(payment="released"), None),
        (502, outcome.PROBLEM, b"[1]", None),
        (502, outcome.PROBLEM, b"{", None),
        (502, outcome.PROBLEM, b"[" * 60_000, None),
        (502, outcome.PROBLEM, b'{"a":' * 60_000, None),
        (502, outcome.PROBLEM, document(payment="stolen"), None),
        (500, "text/html", b"<html>", None),
    ],
)
def test_an_answer_is_taken_at_its_word_and_no_further(status, media_type, body, expected):
    assert outcome.judge(status, media_type, body, is_new=True) == expected


@pytest.mark.parametrize(
    ("said", "is_made", "expected"),
    [
        (outcome.RELEASED, True, outcome.SPENT),
        (outcome.RELEASED, False, outcome.UNSPENT),
        (outcome.RELEASED, None, outcome.RELEASED),
        (None, True, outcome.SPENT),
        (None, False, outcome.UNSPENT),
        (None, None, outcome.SILENT),
    ],
)
def test_the_chain_is_believed_before_the_seller(said, is_made, expected):
    assert outcome.weigh(said, is_made=is_made, method="evm") == expected


@pytest.mark.parametrize(
    ("slug", "expected"),
    [
        ("answer-not-kept", outcome.NOT_KEPT),
        ("idempotency-key-reused", outcome.KEY_REUSED),
    ],
)
def test_only_a_kept_payment_can_have_bought_something_before(slug, expected):
    body = document(type=f"urn:x:{slug}")

    assert outcome.judge(409, outcome.PROBLEM, body, is_new=False) == expected
    assert outcome.judge(409, outcome.PROBLEM, body, is_new=True) is None


def test_a_refusal_of_a_payment_that_the_chain_shows_is_none():
    body = document(detail="no")
    refusal = outcome.judge(402, outcome.PROBLEM, body, is_new=True)

    assert outcome.weigh(refusal, is_made=True, method="evm") == outcome.SPENT
    assert outcome.weigh(refusal, is_made=False, method="evm") == refusal
    assert refusal.money == "not accepted: no"


def test_a_kept_payment_that_is_refused_is_not_replaced_unasked():
    body = document(detail="used")
    refusal = outcome.judge(402, outcome.PROBLEM, body, is_new=False)

    assert refusal.money == "not accepted again: used"
    assert "without MPP_CREDENTIAL" in refusal.retry


def test_no_outcome_advises_a_second_payment_while_the_first_can_still_be_made():
    for found in (outcome.RELEASED, outcome.UNSPENT, outcome.SILENT, outcome.IN_PROGRESS):
        assert "MPP_CREDENTIAL=x" in found.text("MPP_CREDENTIAL=x")
        assert "anew" not in found.retry


def test_a_server_error_after_the_payment_names_the_credit(market):
    market.keeper.answers("500 Internal Server Error", body=b"broken")
    done = pay(market, "/api/first")
    assert done.code == OWED
    assert "payment: credited; you have paid" in done.err
    assert "MPP_CREDENTIAL=" in done.err


def test_money_that_is_sent_back_is_told_as_such_and_its_credential_is_not_kept():
    body = b'{"type": "urn:mpp-gateway:problem:upstream-failed", "payment": "refunding"}'
    found = outcome.judge(502, outcome.PROBLEM, body, is_new=True)
    assert (found, found.keeps_credential) == (outcome.REFUNDING, False)
