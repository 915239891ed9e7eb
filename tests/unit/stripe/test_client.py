"""What an error proves about a request that may or may not have reached Stripe."""

import asyncio
import errno
from types import SimpleNamespace

import aiohttp
import pytest

from mpp_gateway.rails.stripe.client import StripeClient, StripeFailed

KEY = SimpleNamespace(host="api.stripe.com", port=443, is_ssl=True, ssl=True)
NEVER_SENT = [
    aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "refused")),
    aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "no way")),
    aiohttp.ClientConnectorDNSError(KEY, OSError(-2, "no such name")),
]
MAY_BE_SENT = [
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
    aiohttp.ClientPayloadError(),
    TimeoutError(),
    OSError(errno.EPIPE, "pipe"),
]


def failure(error: Exception, monkeypatch) -> StripeFailed:
    """Return what a charge ends in whose connection fails like that."""

    async def run() -> None:
        monkeypatch.setattr(aiohttp.ClientSession, "_request", fail)
        client = StripeClient(
            "sk_test_1", api_base="http://127.0.0.1:1", version="v", account=None, settle_s=0
        )
        try:
            await client.create({"shared_payment_granted_token": "spt_marked"}, "mpp_x_spt_marked")
        finally:
            await client.close()

    async def fail(*_, **__):
        raise error

    with pytest.raises(StripeFailed) as caught:
        asyncio.run(run())
    return caught.value


@pytest.mark.parametrize("error", NEVER_SENT, ids=repr)
def test_without_a_connection_nothing_was_sent(error, monkeypatch):
    assert failure(error, monkeypatch).sent is False


@pytest.mark.parametrize("error", MAY_BE_SENT, ids=repr)
def test_a_connection_that_breaks_may_have_carried_the_charge(error, monkeypatch):
    failed = failure(error, monkeypatch)

    assert failed.sent is True
    assert "marked" not in str(failed)
