"""Gas has a ceiling: above it nothing is offered, claimed, signed or bid; the node may lie."""

import asyncio
import logging

import pytest

from mpp_gateway.demo.chain import TIP_WEI
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import gas, submitter
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.own_key import OwnKeySettler
from mpp_gateway.rails.evm.seller import EvmRail
from tests.support.evm import (
    GAS_KEY,
    PRICE,
    PURSE_MINOR,
    SCHEME,
    Bench,
    asking,
    bench,
    now,
    settings_of,
    until,
)
from tests.support.paid import Paid, paid_gateway, receipt_of, refused, slug_of

GWEI = 10**9
SPIKE_WEI = 500 * GWEI
CEILING_GWEI = 20
DEAR = "Gas costs more than max_fee_gwei."


def on_a_chain(story, tmp_path, **options) -> None:
    """Run `story(bench)` on a fresh chain, whose gas costs between one and two gwei."""

    async def run() -> None:
        async with bench(tmp_path / "gateway.db", **options) as b:
            await story(b)

    asyncio.run(run())


def rail_with(b: Bench, ceiling_wei: int) -> EvmRail:
    """Return the rail again, with a ceiling that depends on what gas costs on the chain."""
    settings = settings_of(b.chain, max_fee_wei=ceiling_wei)
    client = ChainClient(b.node.url, settings.token, settings.rpc_s)
    settler = OwnKeySettler(settings, client, Inspector(client), b.database, GAS_KEY)
    return EvmRail("demo", settings, SCHEME, settler, client)


async def asked_wei(b: Bench) -> int:
    """Return what a transaction pays for a unit of gas in the next block, as the node says."""
    block = await b.chain.run(lambda node: node.block("latest"))
    return int(block["baseFeePerGas"], 16) + TIP_WEI


def later(gateway: Paid, seconds: int) -> None:
    """Put the gateway's clock forward: what gas costs is asked once a second."""
    gateway.proxy.runtime.serving.executor.clock = lambda: now() + seconds


# --- with a whole gateway ------------------------------------------------------------------------


def test_above_the_ceiling_a_payment_is_refused_before_it_is_claimed_or_sent(tmp_path):
    with paid_gateway(tmp_path, submit_more=f', max_fee_gwei: "{CEILING_GWEI}"') as gateway:
        credential = gateway.buy()
        gateway.node.lies |= asking(SPIKE_WEI)
        later(gateway, 1)
        problem = gateway.send(credential)
        document = refused(problem, "rail-unavailable", 503)
        assert "costs too much" in document["detail"]
        assert "nothing was charged" in document["detail"]
        assert problem[1]["retry-after"] == str(gas.DEAR_RETRY_S)
        assert gateway.node.calls.count("eth_sendRawTransaction") == 0
        gateway.untouched()

        # Nor is anything offered.
        refused(gateway.ask(), "rail-unavailable", 503)
        unready = refused(gateway.ask("/readyz"), "not-ready", 503)
        assert unready["rails"] == {"evm": DEAR}

        gateway.node.lies.clear()
        later(gateway, 2)
        answer = gateway.send(credential)
        assert receipt_of(answer).method == "evm"
        assert (gateway.balance(), gateway.hits) == (PRICE, 1)
        assert gateway.ask()[0] == 402
        assert gateway.ask("/readyz")[0] == 200
        assert sum("offers are withheld" in line for line in gateway.proxy.log) == 1
        assert sum("no longer too much" in line for line in gateway.proxy.log) == 1


def test_what_was_paid_before_the_spike_gets_its_call_during_the_spike(tmp_path):
    with paid_gateway(tmp_path, submit_more=f', max_fee_gwei: "{CEILING_GWEI}"') as gateway:
        credential = gateway.buy("/api/first")
        gateway.keeper.answers("500 Oh")
        assert gateway.send(credential, "/api/first")[0] == 502
        assert gateway.states() == {"credited": 1}
        gateway.keeper.answers("200 OK")
        other = gateway.buy("/api/first")
        gateway.node.lies |= asking(SPIKE_WEI)
        later(gateway, 1)
        refused(gateway.send(other, "/api/first"), "rail-unavailable", 503)

        answer = gateway.send(credential, "/api/first")

        assert (answer[0], receipt_of(answer).method) == (200, "evm")
        assert (gateway.balance(), gateway.states()) == (PRICE, {"settled": 1})


def test_a_gateway_that_starts_in_a_spike_offers_nothing(tmp_path):
    with paid_gateway(tmp_path, submit_more=f', max_fee_gwei: "{CEILING_GWEI}"') as gateway:
        gateway.stop()
        gateway.node.lies |= asking(SPIKE_WEI)
        gateway.start()
        assert slug_of(gateway.ask()) == "rail-unavailable"
        assert gateway.ask("/api/free")[0] == 200


# --- the rail alone ------------------------------------------------------------------------------


def test_offers_are_withheld_until_the_chain_asks_for_less(tmp_path, caplog):
    """No lie here: empty blocks make the base fee of the chain itself fall."""

    async def story(b: Bench) -> None:
        rail = rail_with(b, await asked_wei(b) - 1)
        presented = b.presented()
        with pytest.raises(RailUnavailable) as refusal:
            await rail.ready(now())
        assert (refusal.value.status, rail.withheld_for) == (503, DEAR)
        with pytest.raises(RailUnavailable):
            await rail.verify(presented, now())
        assert (await rail.settle(presented, PRICE, now())).state is Settlement.REFUSED
        assert await b.submissions() == []

        await b.chain.run(lambda node: node.mine_empty())
        assert await rail.maintain(now() + 1) == 0

        assert not rail.withheld_for
        await rail.ready(now() + 1)
        assert (await rail.settle(presented, PRICE, now() + 1)).state is Settlement.SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        await rail.close()

    with caplog.at_level(logging.WARNING):
        on_a_chain(story, tmp_path)
    said = [record.getMessage() for record in caplog.records if "gas costs" in record.getMessage()]
    assert [words.split("gas costs ")[1].split(" (")[0] for words in said] == [
        "too much: offers are withheld",
        "no longer too much",
    ]


@pytest.mark.parametrize(
    "lies",
    [
        asking(SPIKE_WEI),
        {"eth_maxPriorityFeePerGas": lambda _: hex(SPIKE_WEI)},
        {"eth_maxPriorityFeePerGas": lambda _: hex(2**200)},
    ],
    ids=["base fee", "tip", "absurd tip"],
)
def test_a_node_that_lies_about_what_gas_costs_gets_no_signature(tmp_path, lies):
    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.rail.verify(presented, now())
        b.node.lies |= lies
        assert (await b.rail.settle(presented, PRICE, now() + 1)).state is Settlement.REFUSED
        assert b.rail.withheld_for == DEAR
        assert "eth_sendRawTransaction" not in b.node.calls
        assert await b.offered_wei() == []
        assert await b.balances() == (PURSE_MINOR, 0)

    on_a_chain(story, tmp_path, max_fee_wei=CEILING_GWEI * GWEI)


def test_a_node_that_cannot_say_what_gas_costs_closes_the_rail(tmp_path):
    async def story(b: Bench) -> None:
        b.node.faults["eth_getBlockByNumber"] = "500"
        with pytest.raises(RailUnavailable) as refusal:
            await b.rail.ready(now())
        assert b.node.url not in refusal.value.detail + refusal.value.private

    on_a_chain(story, tmp_path, max_fee_wei=CEILING_GWEI * GWEI)


def test_without_a_ceiling_nothing_is_asked_before_the_claim(tmp_path):
    async def story(b: Bench) -> None:
        b.node.lies |= asking(SPIKE_WEI)
        await b.rail.ready(now())
        assert b.node.calls == []
        assert not b.rail.withheld_for

    on_a_chain(story, tmp_path)


def test_no_offer_is_above_the_ceiling_not_even_the_room_for_a_rising_base_fee(tmp_path):
    async def story(b: Bench) -> None:
        ceiling_wei = await asked_wei(b) + 1
        rail = rail_with(b, ceiling_wei)
        assert (await rail.settle(b.presented(), PRICE, now())).state is Settlement.SETTLED
        assert await b.offered_wei() == [ceiling_wei]
        await rail.close()

    on_a_chain(story, tmp_path)


def test_a_stuck_transaction_is_bid_up_to_the_ceiling_and_then_sent_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(submitter, "BUMP_AFTER_S", 0.5)

    async def story(b: Bench) -> None:
        first_wei = 2 * (await asked_wei(b)) - TIP_WEI
        ceiling_wei = first_wei * 5 // 4  # room for one bid more, which is an eighth
        rail = rail_with(b, ceiling_wei)
        await b.chain.run(lambda node: setattr(node, "automine", False))
        settling = asyncio.create_task(rail.settle(b.presented(), PRICE, now()))
        sends = "eth_sendRawTransaction"
        await until(lambda: b.node.calls.count(sends) >= 4, "four broadcasts")

        first, second = await b.offered_wei()

        assert first == first_wei
        assert first * 9 // 8 < second <= ceiling_wei
        (waiting,) = await b.chain.run(lambda node: node.pending())
        assert int(waiting["maxFeePerGas"], 16) == second
        await b.chain.run(lambda node: node.mine())
        outcome = await settling
        assert (outcome.state, outcome.reference) == (Settlement.SETTLED, waiting["hash"])
        await rail.close()

    on_a_chain(story, tmp_path)


def test_a_gap_is_filled_within_the_ceiling(tmp_path):
    """The payment is over; what takes its nonce is worth no more gas than the payment was."""

    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults["eth_sendRawTransaction"] = "reset"
        b.allow(2)
        outcome = await b.rail.settle(presented, PRICE, now())
        assert outcome.state is Settlement.UNKNOWN
        b.node.faults.clear()
        b.allow()
        b.node.lies |= asking(SPIKE_WEI)

        assert await b.rail.maintain(presented.valid_until_s) == 1

        offered = await b.offered_wei()
        assert len(offered) == 2
        assert max(offered) <= CEILING_GWEI * GWEI
        assert await b.rail.maintain(presented.valid_until_s + 1) == 0
        assert await b.submissions() == [(0, "done")]
        assert await b.balances() == (PURSE_MINOR, 0)

    on_a_chain(story, tmp_path, max_fee_wei=CEILING_GWEI * GWEI)
