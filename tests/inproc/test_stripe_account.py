"""What the rail asks Stripe at start, and once of Stripe itself in test mode."""

import asyncio
import os
import time

import pytest

from mpp_gateway.config.stripe import API_BASE, STRIPE_VERSION
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.money import Amount, Asset
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.base import Settlement as State
from mpp_gateway.rails.stripe import client as client_module
from mpp_gateway.rails.stripe.client import StripeClient
from mpp_gateway.rails.stripe.request import ConnectTerms, StripeSettings
from mpp_gateway.rails.stripe.seller import StripeRail
from tests.support.evm import BINDING, SCHEME, now
from tests.support.stripe_server import KEY, PROFILE, stand_in_stripe


@pytest.fixture(scope="module")
def server():
    with stand_in_stripe() as server:
        yield server


def check(server, *, key: str = KEY, account: str | None = None, base: str = "") -> None:
    client = StripeClient(
        key, api_base=base or server.url, version=STRIPE_VERSION, account=account, settle_s=3
    )
    connect = ConnectTerms(stripe_account=account)
    settings = StripeSettings(PROFILE, "usd", is_live=False, connect=connect)
    rail = StripeRail("stripe", settings, SCHEME, client)

    async def run() -> None:
        try:
            await rail.self_check()
        finally:
            await rail.close()

    asyncio.run(run())


def test_a_good_account_is_taken(server):
    check(server)
    check(server, account="acct_connected")

    # Taken because Stripe was asked, and not for want of a question.
    assert [what for what, *_ in server.asked] == ["account", "account"]


def test_a_key_that_stripe_does_not_know_stops_the_start_and_is_not_shown(server):
    with pytest.raises(RailMisconfigured, match="Stripe does not accept secret_key") as caught:
        check(server, key="sk_test_marked")

    assert "marked" not in repr(caught.value.__cause__)


def test_a_connected_account_that_the_key_cannot_use_stops_the_start(server):
    with pytest.raises(RailMisconfigured, match="has no access to"):
        check(server, account="acct_stranger")


def test_an_account_that_cannot_charge_stops_the_start(server, monkeypatch):
    monkeypatch.setattr(server, "charges_enabled", False)

    with pytest.raises(RailMisconfigured, match="cannot take charges yet"):
        check(server)


def test_a_stripe_that_is_gone_or_wrong_at_start_is_no_mistake_of_the_file(server):
    with pytest.raises(RailUnavailable):
        check(server, base="http://127.0.0.1:1")
    server.once["account"] = "garbage"
    with pytest.raises(RailUnavailable):
        check(server)


def test_an_answer_without_end_is_not_read_to_its_end(server, monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_MAX", 10)

    with pytest.raises(RailUnavailable):
        check(server)


if "STRIPE_TEST_KEY" in os.environ:

    def test_stripe_itself_charges_a_token_once_and_gives_it_back():
        """Opt-in: STRIPE_TEST_KEY is a key of test mode, STRIPE_TEST_PROFILE its profile."""
        key = os.environ["STRIPE_TEST_KEY"]
        assert "_test_" in key
        profile = os.environ["STRIPE_TEST_PROFILE"]
        asyncio.run(_charge_and_refund(key, profile))


async def _charge_and_refund(key: str, profile: str) -> None:
    client = StripeClient(key, api_base=API_BASE, version=STRIPE_VERSION, account=None, settle_s=30)
    rail = StripeRail("stripe", StripeSettings(profile, "usd", is_live=False), SCHEME, client)
    try:
        await rail.self_check()
        offer = rail.offer(Amount(100, Asset("usd", 2)), None, None)
        ((_, text),) = rail.challenge(offer, BINDING, now(), os.urandom(16))
        minted = await client._call(
            "post",
            "/v1/test_helpers/shared_payment/granted_tokens",
            {
                "payment_method": "pm_card_visa",
                "usage_limits": {
                    "currency": "usd",
                    "max_amount": 100,
                    "expires_at": int(time.time()) + 600,
                },
                "seller_details": {"network_id": profile},
            },
        )
        credential = Credential(Challenge.parse(text), {"spt": minted.data["id"]})
        head = RequestHead("GET", "/", (("Authorization", credential.format()),))
        presented = rail.read(head, (offer,), BINDING, now())
        assert presented is not None
        outcome = await rail.settle(presented, 100, now())
        assert outcome.state is State.SETTLED
        again = await rail.settle(presented, 100, now())
        assert again.state is State.REFUSED
        seen = await rail.look_up(presented.record, now())
        assert seen.reference == outcome.reference
        for _ in range(2):
            assert (await rail.refund(presented.record, now())).state is not State.REFUSED
    finally:
        await rail.close()
