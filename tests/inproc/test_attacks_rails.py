"""What an enemy of the newer rails tried: what worked once, and what would be costly if it did."""

import base64
import re
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.io import FlowReader, FlowWriter

from mpp_gateway.addons.translation import HIDDEN_TOKEN
from mpp_gateway.protocol.challenge import Challenge
from tests.support.client import RawClient
from tests.support.evm import now
from tests.support.paid import at_once, refused, slug_of, wait_until
from tests.support.stripe_server import KEY, PROFILE, StandInStripe, stand_in_stripe
from tests.support.stripe_shop import PRICE, ROUTES, stripe_shop

EURO_PRICE = 90
UPLOAD = ROUTES + '      "POST /upload": {charge: "1.00", timeouts: {first_byte_s: 1}}\n'


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


def pays(credential) -> str:
    return f"Payment-Authorization: {credential.format()}"


# A seller's fees


@pytest.mark.parametrize(
    "own", ["Bearer " + ",".join("a" * 600), "Bearer " + "a" * 70_000], ids=["a list", "long"]
)
def test_an_authorization_that_cannot_be_read_is_refused_before_it_is_paid_for(
    server, tmp_path, own
):
    """Charged first and then refused, each such call would cost the seller a fee for a refund."""
    with stripe_shop(server, tmp_path, service="requires_auth: true") as shop:
        credential, spt = shop.buy()

        refused(
            shop.ask("/api/paid", pays(credential), f"Authorization: {own}"), "malformed-credential"
        )
        assert (server.of(spt), shop.row(spt)["state"], shop.hits) == ([], "none", 0)

        assert shop.ask("/api/free", f"Authorization: {own}")[0] == 200
        assert shop.upstream.seen[0].get("authorization") is None
        assert shop.ask("/api/paid", pays(credential))[0] == 200


ASKS = ("retrieve", "list", "search")


def test_who_repeats_a_charge_that_is_processing_has_stripe_asked_once_in_five_seconds(
    server, tmp_path
):
    """A free request cost a search and a list, and Stripe's limit is that of all buyers."""
    with stripe_shop(server, tmp_path) as shop:
        clock_s = now()
        shop.proxy.runtime.serving.executor.clock = lambda: clock_s
        spt = server.mint(PRICE, payment_method="pm_slow")
        credential, _ = shop.buy(spt=spt)
        slow = [shop.send(credential)]
        server.asked.clear()

        def rounds() -> int:
            """Return how often Stripe was asked, and take that for read."""
            asked = [verb for verb, *_ in server.asked if verb in ASKS]
            server.asked.clear()
            return asked.count("search")

        slow += [shop.send(credential) for _ in range(10)]
        slow += at_once([lambda: shop.send(credential)] * 10)
        assert rounds() == 1
        assert {(slug_of(answer), answer[1]["retry-after"]) for answer in slow} == {
            ("settlement-unknown", "5")
        }

        clock_s += 4
        shop.send(credential)
        assert rounds() == 0
        clock_s += 1
        shop.send(credential)
        assert rounds() == 1

        # Another payment does not wait for it, and the buyer who comes back in time has its call.
        (intent,) = server.of(spt)
        intent |= {"status": "succeeded", "amount_received": PRICE}
        assert shop.send(shop.buy()[0])[0] == 200
        clock_s += 5
        assert shop.send(credential)[0] == 200
        assert shop.row(spt)["state"] == "settled"


def test_an_upload_that_its_client_stalls_is_a_credit_and_no_refund(server, tmp_path):
    """Refunded, one token after another could have the seller pay Stripe's fee for nothing."""
    with stripe_shop(server, tmp_path, routes=UPLOAD) as shop:
        credential, spt = shop.buy("/api/upload", method="POST")
        head = (
            "POST /api/upload HTTP/1.1",
            "Host: gateway.test",
            f"Authorization: {credential.format()}",
            "Content-Length: 1000",
        )
        with RawClient(shop.proxy.port) as client:
            client.send("\r\n".join((*head, "", "x")).encode())
            answer = client.response()

        assert (answer[0], slug_of(answer)) == (408, "request-timeout")
        shop.reaches(spt, "credited")
        shop.resolve()
        assert server.sums(spt) == {"charged": PRICE}
        assert shop.send(credential, "/api/upload", method="POST", body=b"y")[0] == 200
        assert server.sums(spt) == {"charged": PRICE}


@pytest.mark.parametrize("wait", ["at once", "when it is charged"])
def test_who_hangs_up_before_the_upstream_is_asked_has_a_credit_and_no_refund(
    server, tmp_path, wait
):
    with stripe_shop(server, tmp_path) as shop:
        credential, spt = shop.buy()
        lines = (
            "GET /api/paid HTTP/1.1",
            "Host: gateway.test",
            f"Authorization: {credential.format()}",
            "",
            "",
        )
        shop.keeper.opened.clear()
        with RawClient(shop.proxy.port) as client:
            client.send("\r\n".join(lines).encode())
            if wait != "at once":
                wait_until(lambda: server.sums(spt), "it is charged")
        shop.keeper.opened.set()

        ended = ("credited", "settled")  # the upstream may have been asked already: then it is paid
        wait_until(lambda: shop.row(spt)["state"] in ended, "it is charged")
        wait_until(lambda: not shop.proxy.orphans, "its books are closed")
        wait_until(lambda: shop.row(spt)["due_s"] is None, "and nobody is at it")
        shop.resolve()
        assert server.sums(spt) == {"charged": PRICE}
        if shop.row(spt)["state"] == "credited":
            assert shop.send(credential)[0] == 200
        assert server.sums(spt) == {"charged": PRICE}
        assert shop.hits == 1


def test_made_up_tokens_for_old_challenges_ask_nothing_of_stripe(server, tmp_path):
    """Each would be a search and a walk through the account's list: Stripe allows few of them."""
    with stripe_shop(server, tmp_path) as shop:
        challenges = [shop.challenge() for _ in range(5)]
        declined = server.mint(PRICE, payment_method="pm_card_declined")
        released = shop.credential(shop.challenge(), declined)
        refused(shop.send(released), "verification-failed")
        executor = shop.proxy.runtime.serving.executor
        for later_s in (280, 301):
            executor.clock = lambda later_s=later_s: now() + later_s
            server.asked.clear()

            for number, challenge in enumerate(challenges):
                made_up = shop.credential(challenge, f"spt_made_up{number}")
                assert shop.send(made_up)[0] == 402
            assert shop.send(released)[0] == 402

            assert server.asked == []
        assert shop.hits == 0


# Two accounts


def euro(server: StandInStripe) -> str:
    return (
        f"  euro: {{kind: stripe, secret_key: {KEY}, network_id: {PROFILE}, currency: eur,"
        f' api_base: {server.url!r}, rates: {{usd: "0.9"}}}}\n'
    )


def test_a_token_that_one_account_refused_is_booked_and_given_back_by_the_one_that_charged_it(
    server, tmp_path
):
    """Asked of the first account, at its price, the refund would be owed for ever."""
    with stripe_shop(server, tmp_path, methods=euro(server)) as shop:
        dollars, euros = Challenge.parse_all(shop.ask()[1]["www-authenticate"].split("\n"))
        spt = server.mint(EURO_PRICE, currency="eur")
        refused(shop.send(shop.credential(dollars, spt)), "verification-failed")
        assert (shop.row(spt)["rail"], shop.row(spt)["amount_minor"]) == ("stripe", str(PRICE))
        shop.keeper.answers("500 no")

        assert shop.send(shop.credential(euros, spt))[0] == 502

        shop.reaches(spt, "refunded")
        row = shop.row(spt)
        assert (row["rail"], row["asset"], row["amount_minor"]) == ("euro", "eur", str(EURO_PRICE))
        assert server.sums(spt) == {"charged": EURO_PRICE, "refunded": EURO_PRICE}


def test_a_charge_of_a_token_that_failed_before_at_another_price_is_found(server, tmp_path):
    """Its first charge, declined, is about another amount: it must not hide the second for ever."""
    with stripe_shop(server, tmp_path) as shop:
        spt = server.mint(PRICE, payment_method="pm_card_declined")
        refused(shop.send(shop.buy(spt=spt)[0]), "verification-failed")
        (declined,) = server.of(spt)
        declined["amount"] = 2 * PRICE  # the price has changed since
        server.tokens[spt].payment_method = "pm_card_visa"
        server.once["create"] = "500"
        credential, _ = shop.buy(spt=spt)
        refused(shop.send(credential), "settlement-unknown", 503)
        executor = shop.proxy.runtime.serving.executor
        executor.clock = lambda: now() + 10_000
        shop.proxy.runtime.serving.resolver._clock = executor.clock

        shop.resolve()

        assert shop.row(spt)["state"] == "released"


# Tokens in flows


class Saver:
    """Saves flows as `mitmdump -w` does, and as somebody who looks at them from the start."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        with self.path.open("ab") as file:
            FlowWriter(file).add(flow)

    response = requestheaders


HEADS = {
    "two lengths": "POST /api/paid HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
    "CONNECT": "CONNECT example.com:443 HTTP/1.1",
    "absolute": "GET http://example.com/api/paid HTTP/1.1",
    "no path": "GET /nowhere HTTP/1.1",
    "a document": "GET /healthz HTTP/1.1",
    "good": "GET /api/paid HTTP/1.1",
}
FIELDS = (
    "Authorization: {}",
    "authorization:{}",
    "Authorization: Bearer x, {}",
    "Authorization: Bearer x\r\nAuthorization: {}",
    "Payment-Authorization: {}",
    "Proxy-Authorization: {}",
)


def test_no_token_is_in_the_flow_of_a_request_however_it_is_refused(server, tmp_path):
    saved = tmp_path / "flows"
    with stripe_shop(server, tmp_path) as shop:
        shop.proxy.call(lambda: shop.proxy.master.addons.add(Saver(saved)))
        sent = []
        for head in HEADS.values():
            for field in FIELDS:
                spt = server.mint(PRICE)
                text = shop.credential(shop.challenge(), spt).format()
                with RawClient(shop.proxy.port) as client:
                    lines = head, "Host: gateway.test", field.format(text), "", ""
                    client.send("\r\n".join(lines).encode())
                    client.head()
                sent.append(spt)
        shop.stop()
    with saved.open("rb") as file:
        flows = [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]
    assert len(flows) >= len(sent)
    shown = b"".join(
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        for flow in flows
        for text in re.findall(r"[A-Za-z0-9_-]{200,}", repr(flow.request.headers))
    )
    assert shown.count(HIDDEN_TOKEN.encode()) >= len(sent)
    assert [spt for spt in sent if spt.encode() in shown] == []
