"""Blocks that the chain takes back, against what a gas key has sent: nobody pays or gets twice."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import outbox
from mpp_gateway.rails.evm.upkeep import GAP_S
from tests.support.evm import GAS_KEY, PAYER, PURSE_MINOR, Bench, address, bench, now, until


def take_back(node, height: int) -> None:
    """Forget every block above `height`; no mempool keeps its transactions."""
    chain = node._chain
    block = chain.get_canonical_block_by_number(height)
    chain.chaindb._set_as_canonical_chain_head(chain.chaindb.db, block.header, b"\0" * 32)
    chain.header = chain.create_header_from_parent(block.header)
    gone = [h for h, r in node._receipts.items() if int(r["blockNumber"], 16) > height]
    for tx_hash in gone:
        node._receipts.pop(tx_hash)
        node._transactions.pop(tx_hash, None)
    node._logs = [log for log in node._logs if int(log["blockNumber"], 16) <= height]


async def height_of(desk: Bench) -> int:
    return await desk.chain.run(lambda node: node.height)


async def mines(desk: Bench, *, at_once: bool) -> None:
    await desk.chain.run(lambda node: setattr(node, "automine", at_once))


async def sell_behind(desk: Bench):
    """Send a later payment that no block takes while an earlier nonce is missing."""
    await mines(desk, at_once=False)
    desk.allow(1)
    later = desk.presented(b"2" * 16)
    assert (await desk.settle(later)).state is Settlement.UNKNOWN
    await mines(desk, at_once=True)
    desk.allow()
    return later


async def mend(*rails) -> None:
    """Let every process look after the key until a gap counts as one."""
    for later_s in (0, GAP_S + 1, GAP_S + 2):
        await asyncio.gather(*(rail.maintain(now() + later_s) for rail in rails))


async def buyers_minor(desk: Bench) -> int:
    return await desk.chain.balance_of(address(PAYER))


@asynccontextmanager
async def owing(tmp_path):
    """A payment that was settled and is to be given back, by its own payee."""
    payee = bytes.fromhex(address(GAS_KEY)[2:])
    async with bench(tmp_path / "store.db", recipient=payee) as desk:
        paid = desk.presented()
        assert (await desk.settle(paid)).state is Settlement.SETTLED
        await desk.chain.mint(address(GAS_KEY), 10 * paid.amount_minor)
        yield desk, paid.record


def test_a_refund_that_was_made_after_one_had_failed_is_made_again_when_it_is_taken_back(tmp_path):
    async def story():
        async with owing(tmp_path) as (desk, record):
            desk.node.lies["eth_estimateGas"] = lambda _: "0x6800"
            assert (await desk.rail.refund(record, now())).state is Settlement.REFUSED
            desk.node.lies.clear()
            height = await height_of(desk)
            assert (await desk.rail.refund(record, now())).state is Settlement.SETTLED
            await desk.chain.run(lambda node: take_back(node, height))
            later = await sell_behind(desk)
            await mend(desk.rail)
            assert await buyers_minor(desk) == PURSE_MINOR - later.amount_minor

    asyncio.run(story())


@pytest.mark.parametrize("processes", [1, 3])
def test_a_refund_that_is_taken_back_is_paid_once_however_many_see_to_it(tmp_path, processes):
    async def story():
        async with owing(tmp_path) as (desk, record):
            height = await height_of(desk)
            assert (await desk.rail.refund(record, now())).state is Settlement.SETTLED
            await desk.chain.run(lambda node: take_back(node, height))
            later = await sell_behind(desk)
            others = [desk.again() for _ in range(processes - 1)]
            await mend(desk.rail, *others)
            for rail in (desk.rail, *others):
                assert (await rail.refund(record, now())).state is Settlement.SETTLED
            assert await buyers_minor(desk) == PURSE_MINOR - later.amount_minor
            for rail in others:
                await rail.close()

    asyncio.run(story())


def test_a_refund_under_a_second_nonce_is_paid_once_when_both_are_taken_back(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "LOST_DEPTH", 0)

    async def story():
        async with owing(tmp_path) as (desk, record):
            height = await height_of(desk)
            desk.node.faults["eth_sendRawTransaction"] = "swallow"
            desk.allow(1)
            assert (await desk.rail.refund(record, now())).state is Settlement.UNKNOWN
            desk.node.faults.clear()
            await desk.chain.transfer(GAS_KEY, address(GAS_KEY), 1)
            desk.allow()
            await desk.rail.maintain(now())
            assert (await desk.rail.refund(record, now())).state is Settlement.SETTLED
            await desk.chain.run(lambda node: take_back(node, height))
            later = await sell_behind(desk)
            await mend(desk.rail)
            await mend(desk.rail)
            assert await buyers_minor(desk) == PURSE_MINOR - later.amount_minor
            assert (await desk.rail.refund(record, now())).state is Settlement.SETTLED
            assert await buyers_minor(desk) == PURSE_MINOR - later.amount_minor

    asyncio.run(story())


def test_a_payment_that_failed_in_its_block_is_not_sent_again_when_that_is_taken_back(tmp_path):
    """Its buyer was told that nothing was charged."""

    async def story():
        async with bench(tmp_path / "store.db") as desk:
            await desk.chain.fund_gas(address(PAYER))
            await mines(desk, at_once=False)
            refused = desk.presented()
            settling = asyncio.create_task(desk.settle(refused))
            await until(
                lambda: (
                    "eth_sendRawTransaction" in desk.node.calls
                    and desk.node.calls[-1] == "eth_getTransactionReceipt"
                ),
                "it is sent",
            )
            pool = await desk.chain.run(lambda node: (dict(node._pool), node._pool.clear())[0])
            await desk.chain.transfer(PAYER, address(GAS_KEY), PURSE_MINOR)
            await desk.chain.run(lambda node: node.mine())
            height = await height_of(desk)
            await desk.chain.run(lambda node: (node._pool.update(pool), node.mine()))
            assert (await settling).state is Settlement.REFUSED
            await desk.chain.run(lambda node: take_back(node, height))
            await mines(desk, at_once=True)
            await desk.chain.mint(address(PAYER), PURSE_MINOR)
            later = await sell_behind(desk)
            await mend(desk.rail)
            assert await buyers_minor(desk) == PURSE_MINOR - later.amount_minor

    asyncio.run(story())
