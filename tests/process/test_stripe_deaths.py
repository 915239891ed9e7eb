"""A gateway that sells through Stripe is killed in the middle of a charge: nobody pays twice."""

import threading
from contextlib import contextmanager

import pytest

from tests.support import upstream as upstreams
from tests.support.client import get
from tests.support.paid import Gatekeeper, receipt_of, wait_until
from tests.support.process import free_port, process
from tests.support.proxy import config_text
from tests.support.stripe_server import stand_in_stripe
from tests.support.stripe_shop import PRICE, ROUTES, StripeShop, method_text


class Remote(StripeShop):
    """A shop whose gateway is a process of its own."""

    port = 0

    def ask(self, target="/api/paid", *fields, method="GET", body=b""):
        return get(self.port, target, *fields, method=method, body=body)


@contextmanager
def remote(folder, method: str):
    keeper = Gatekeeper()
    with stand_in_stripe() as server, upstreams.upstream(keeper) as up:
        services = f"  api:\n    base_url: {up.url}\n    routes:{ROUTES}"
        text = config_text(services, method_text(server, method), store=folder / "gateway.db")
        shop = Remote(server, up, keeper, folder / "gateway.db", text)
        (folder / "gateway.yaml").write_text(text)
        yield shop
        server.calm()
        keeper.opened.set()


@contextmanager
def served(shop: Remote, folder):
    shop.port = free_port()
    command = ("serve", "--config", str(folder / "gateway.yaml"), "--port", str(shop.port))
    with process("mpp-gateway", *command) as running:
        running.wait_for_text("serving on")
        yield running


def killed_while(shop: Remote, folder, sums: dict[str, int]) -> tuple:
    """Send a good credential, and kill the gateway when Stripe's ledger shows `sums` for it."""
    with served(shop, folder) as running:
        credential, spt = shop.buy()

        def send() -> None:
            with_cut = (OSError, EOFError)
            try:
                shop.send(credential)
            except with_cut:
                return

        buyer = threading.Thread(target=send, daemon=True)
        buyer.start()
        wait_until(lambda: shop.server.sums(spt) == sums, f"{sums}")
        running.popen.kill()
        wait_until(lambda: running.popen.poll() is not None, "killed")
        buyer.join(60)
    return credential, spt


@pytest.mark.parametrize("index", ["indexed", "lagging"])
def test_a_charge_whose_gateway_was_killed_before_stripes_reply_is_found_and_served(
    tmp_path, index
):
    """The token died with the process: the charge is found by what it was marked with."""
    with remote(tmp_path, "") as shop:
        shop.server.faults["create"] = "late"
        credential, spt = killed_while(shop, tmp_path, {"charged": PRICE})
        assert (shop.row(spt)["state"], shop.hits) == ("settling", 0)
        shop.server.calm()
        shop.keeper.answers("200 OK", body=b"served")
        if index == "indexed":
            shop.server.index()

        with served(shop, tmp_path):
            shop.reaches(spt, "credited")
            answer = shop.send(credential)

    (intent,) = shop.server.of(spt)
    assert (answer[0], answer[2], receipt_of(answer).reference) == (200, b"served", intent["id"])
    assert (shop.hits, shop.server.sums(spt)) == (1, {"charged": PRICE})
    assert len(shop.server.calls("create")) == 1


def test_a_hold_whose_gateway_was_killed_is_captured_once_or_never(tmp_path):
    with remote(tmp_path, "capture: manual") as shop:
        shop.keeper.opened.clear()
        credential, spt = killed_while(shop, tmp_path, {"held": PRICE})
        shop.keeper.opened.set()
        shop.keeper.answers("200 OK", body=b"served")
        assert "charged" not in shop.server.sums(spt)

        with served(shop, tmp_path):
            answer = shop.send(credential)

    assert answer[0] == 200
    assert shop.server.sums(spt) == {"held": PRICE, "charged": PRICE}


@pytest.mark.parametrize("fault", ["late", "hang"])
def test_a_refund_whose_gateway_was_killed_is_made_once(tmp_path, fault):
    with remote(tmp_path, "") as shop:
        shop.keeper.answers("500 no")
        shop.server.faults["refund"] = fault
        sums = {"charged": PRICE} | ({"refunded": PRICE} if fault == "late" else {})
        with served(shop, tmp_path) as running:
            credential, spt = shop.buy()
            assert shop.send(credential)[0] == 502
            wait_until(lambda: shop.server.calls("refund"), "the refund is asked for")
            wait_until(lambda: shop.server.sums(spt) == sums, "")
            running.popen.kill()
            wait_until(lambda: running.popen.poll() is not None, "killed")
        shop.server.calm()

        with served(shop, tmp_path):
            shop.reaches(spt, "refunded")

    assert shop.server.sums(spt) == {"charged": PRICE, "refunded": PRICE}
