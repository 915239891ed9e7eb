"""A paid answer that is lost on its way to `mpp-gateway pay` is fetched with what that printed."""

import asyncio
from contextlib import contextmanager

import pytest

from mpp_gateway.cli.exits import OK, OWED
from tests.process.test_pay_attacks import problem
from tests.process.test_pay_outcomes import noted_in
from tests.support.command import run
from tests.support.market import open_market
from tests.support.upstream import upstream

ROUTES = """
      "GET /paid": {charge: "0.01"}
      "POST /paid": {charge: "0.01"}
"""
BODY = b"the whole answer, which was paid for"


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A gateway process before a chain and an upstream, and a buyer with a purse."""
    with open_market(tmp_path_factory.mktemp("market"), ROUTES) as parts:
        parts.keeper.answers("200 OK", body=BODY)
        yield parts


@contextmanager
def bad_line(market, lie: bytes | None = None):
    """Carries requests to the gateway; of the first paid answer the first half, or a lie."""
    cut = []

    async def carry(seen, _, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", market.port)
        fields = [f"{n}: {v}" for n, v in seen.headers if n.lower() != "connection"]
        lines = [f"{seen.method} {seen.target} HTTP/1.1", *fields, "Connection: close", "", ""]
        ours.write("\r\n".join(lines).encode() + seen.body)
        answer = await theirs.read(-1)  # to its end: the gateway has kept it by then
        ours.close()
        if seen.get("authorization") and not cut:
            cut.append(answer)
            answer = lie or answer[: -len(BODY) // 2]
        writer.write(answer)
        await writer.drain()

    with upstream(carry) as line:
        yield line
    assert cut


@pytest.mark.parametrize("more", [(), ("--data", "do it"), ("--header", "Idempotency-Key: mine")])
def test_the_same_command_with_what_was_printed_gets_the_answer_for_nothing(market, more, tmp_path):
    before, hits = market.balance(), market.hits
    with bad_line(market) as line:
        rpc = ("--rpc-url", market.node.url, "--max", "0.10")
        command = ("pay", f"{line.url}/api/paid", *rpc, *more)
        done = run(*command, home=tmp_path, MPP_PRIVATE_KEY=market.key.hex())
        again = run(*command, home=tmp_path, **noted_in(done.err))

    assert (done.code, BODY.startswith(done.out.strip().encode())) == (OWED, True)
    assert "payment: made, as the receipt says; the answer is not whole\n" in done.err
    assert (again.code, again.out.encode()) == (OK, BODY)
    assert "receipt: " in again.err
    assert market.balance() - before == 10_000
    assert market.hits - hits == 1


@pytest.mark.parametrize(
    "lie",
    [
        problem("502 Bad Gateway", {"payment": "released"}),
        problem("503 X", {"type": "urn:x:rail-unavailable"}),
        problem("402 Payment Required", {"detail": "no"}),
    ],
)
def test_a_seller_who_took_the_money_and_denies_it_is_not_paid_again(market, lie, tmp_path):
    before = market.balance()
    with bad_line(market, lie) as line:
        rpc = ("--rpc-url", market.node.url, "--max", "0.10")
        command = ("pay", f"{line.url}/api/paid", *rpc)
        done = run(*command, home=tmp_path, MPP_PRIVATE_KEY=market.key.hex())
        again = run(*command, home=tmp_path, **noted_in(done.err))

    assert done.code == OWED
    assert "payment: made, says the chain" in done.err
    assert "nothing was charged" not in done.err
    assert (again.code, again.out.encode()) == (OK, BODY)
    assert market.balance() - before == 10_000
