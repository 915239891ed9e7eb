"""Money that moved for nothing goes back where the route says so: once, whatever breaks."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.rails import blocks
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import outbox
from mpp_gateway.rails.evm.submissions import ONCE
from mpp_gateway.rails.evm.upkeep import GAP_S
from mpp_gateway.rails.jsonrpc import RpcRefused
from tests.support.client import RawClient
from tests.support.evm import GAS_KEY, PAYER, Bench, address, bench, now, until
from tests.support.paid import (
    PRICE,
    PURSE_MINOR,
    Paid,
    own_chain,
    paid_gateway,
    paid_parts,
    refused,
    wait_until,
)

ROUTES = """
      "GET /paid": {charge: "0.01", on_failure: refund}
      "GET /first": {charge: "0.01", settle: before, on_failure: refund}
"""
SHORT = "connect_s: 1, first_byte_s: 5, settle_s: 2"


def selling(tmp_path, **options):
    """A gateway whose payee is its own gas key."""
    return paid_gateway(tmp_path, routes=ROUTES, pays_itself=True, **options)


def refunding(answer) -> None:
    problem = refused(answer, "upstream-failed", 502)
    assert problem["payment"] == "refunding"
    assert "given the money back" in problem["hint"]
    assert "payment-receipt" not in answer[1]
    assert b"marked" not in answer[2]


def paid_back(gateway: Paid) -> None:
    wait_until(lambda: gateway.states() == {"refunded": 1}, "the refund is noted")
    assert (gateway.purse(), gateway.balance()) == (PURSE_MINOR, 0)


def refunds(gateway: Paid) -> list[dict]:
    return [row for row in gateway.place.rows("SELECT * FROM submissions") if is_refund(row)]


def is_refund(row: dict) -> bool:
    return row["proof_id"].startswith(ONCE)


def test_a_call_that_failed_after_it_was_paid_is_paid_back(tmp_path):
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops", body=b"marked")
        credential = gateway.buy("/api/first")
        refunding(gateway.send(credential, "/api/first"))
        paid_back(gateway)
        (row,) = gateway.rows()
        assert row["refund"] != row["reference"]
        assert gateway.chain.transaction(row["refund"])["status"] == "0x1"
        assert gateway.journal()[-2:] == [("settled", "refunding"), ("refunding", "refunded")]


def test_a_payment_that_was_given_back_buys_nothing_more(tmp_path):
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")
        refunding(gateway.send(credential, "/api/first"))
        gateway.keeper.answers("200 OK", body=b"served")
        for _ in range(2):
            problem = refused(gateway.send(credential, "/api/first"), "invalid-challenge")
            assert "given back" in problem["detail"]
            paid_back(gateway)
        assert gateway.hits == 1


def test_a_call_that_was_not_paid_ahead_owes_nothing(tmp_path):
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops", body=b"its own words")
        answer = gateway.send(gateway.buy())
        assert (answer[0], answer[1]["payment-outcome"]) == (500, "released")
        assert answer[2] == b"its own words"
        assert (gateway.states(), gateway.purse()) == ({"released": 1}, PURSE_MINOR)
        assert refunds(gateway) == []


@pytest.mark.parametrize("fault", ["500", "garbage", "lost"])
def test_a_refund_that_the_node_does_not_take_is_owed_until_it_does(tmp_path, fault):
    with selling(tmp_path, timeouts=SHORT) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")

        async def fail() -> None:
            gateway.node.faults |= {"eth_sendRawTransaction": fault, "eth_estimateGas": fault}
            gateway.keeper.before = None

        gateway.keeper.before = fail
        refunding(gateway.send(credential, "/api/first"))
        asked = gateway.node.calls.count("eth_estimateGas")
        gateway.proxy.call(gateway.proxy.runtime.serving.resolver.round)
        assert gateway.node.calls.count("eth_estimateGas") >= asked
        assert gateway.states() == {"refunding": 1}
        gateway.node.faults.clear()
        gateway.proxy.call(gateway.proxy.runtime.serving.resolver.round)
        paid_back(gateway)
        assert len(refunds(gateway)) == 1


def test_a_refund_that_a_balancer_sends_twice_is_paid_once(tmp_path):
    """Its second copy is called stale, and the first one is in a block: it is no other nonce's."""
    with selling(tmp_path) as gateway:
        assert gateway.send(gateway.buy())[0] == 200  # a second refund would find money to take
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")

        async def double() -> None:
            gateway.node.faults["eth_sendRawTransaction"] = "twice"
            gateway.keeper.before = None

        gateway.keeper.before = double
        refunding(gateway.send(credential, "/api/first"))
        wait_until(lambda: gateway.states().get("refunded") == 1, "the refund is noted")
        assert (gateway.purse(), gateway.balance()) == (PURSE_MINOR - PRICE, PRICE)
        assert [row["state"] for row in refunds(gateway)] == ["done"]


def test_a_refund_that_a_kill_cut_off_is_made_at_the_next_start(tmp_path):
    with selling(tmp_path, timeouts=SHORT) as gateway:
        gateway.keeper.answers("500 Oops")
        credential = gateway.buy("/api/first")

        async def fail() -> None:
            gateway.node.faults["eth_estimateGas"] = "500"

        gateway.keeper.before = fail
        refunding(gateway.send(credential, "/api/first"))
        gateway.stop()
        assert gateway.states() == {"refunding": 1}
        gateway.keeper.before = None
        gateway.node.faults.clear()
        gateway.start()
        paid_back(gateway)


def test_a_refund_that_was_paid_and_not_noted_is_not_paid_again(tmp_path):
    """As after a kill between the block and the note: the store says that it is owed."""
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("500 Oops")
        refunding(gateway.send(gateway.buy("/api/first"), "/api/first"))
        paid_back(gateway)
        gateway.stop()
        gateway.place.write("UPDATE exchanges SET state = 'refunding', refund = '', asked_s = 1")
        gateway.start()
        paid_back(gateway)
        assert len(refunds(gateway)) == 1
        assert gateway.rows()[0]["refund"].startswith("0x")


def test_two_processes_that_make_the_same_refund_pay_it_once(tmp_path):
    async def main() -> None:
        async with bench(tmp_path / "s.db", recipient=bytes.fromhex(address(GAS_KEY)[2:])) as b:
            presented = b.presented()
            assert (await b.settle(presented)).state is Settlement.SETTLED
            record = presented.record
            before = await b.chain.balance_of(address(PAYER))
            others = [b.again() for _ in range(2)]
            outcomes = await asyncio.gather(
                *(rail.refund(record, now()) for rail in (b.rail, *others) for _ in range(3))
            )
            assert Settlement.SETTLED in {outcome.state for outcome in outcomes}
            last = await b.rail.refund(record, now())
            assert last.state is Settlement.SETTLED
            assert await b.chain.balance_of(address(PAYER)) == before + record.amount_minor
            assert await b.chain.balance_of(address(GAS_KEY)) == 0
            for rail in others:
                await rail.close()

    asyncio.run(main())


def test_a_refund_from_a_key_that_is_not_the_payees_is_refused(tmp_path):
    async def main() -> None:
        async with bench(tmp_path / "s.db") as b:
            presented = b.presented()
            assert (await b.settle(presented)).state is Settlement.SETTLED
            outcome = await b.rail.refund(presented.record, now())
            assert outcome.state is Settlement.REFUSED

    asyncio.run(main())


# One refund is one payment, whatever the node says. What was sent is known by its hash alone.


@asynccontextmanager
async def owed(tmp_path, **changes) -> AsyncIterator[tuple[Bench, PaymentRecord]]:
    """A settled payment to the gas key's own account, with money for several refunds of it."""
    payee = bytes.fromhex(address(GAS_KEY)[2:])
    async with bench(tmp_path / "s.db", recipient=payee, **changes) as b:
        presented = b.presented()
        assert (await b.settle(presented)).state is Settlement.SETTLED
        await b.chain.mint(address(GAS_KEY), 10 * presented.amount_minor)
        yield b, presented.record


async def paid_once(b: Bench, record: PaymentRecord) -> None:
    """Ask until it is paid, and some times more."""
    b.allow()
    payer = address(PAYER)

    async def is_paid() -> bool:
        await b.rail.maintain(now())
        return (await b.rail.refund(record, now())).state is Settlement.SETTLED

    await until(is_paid, "the refund is paid")
    for _ in range(3):
        assert await is_paid()
    assert await b.chain.balance_of(payer) == PURSE_MINOR


def test_a_refund_whose_nonce_somebody_else_used_is_sent_under_another_only_when_certain(
    tmp_path, monkeypatch
):
    """The operator moves money with the same key. Believed lost too early it is paid twice."""

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            b.node.faults["eth_sendRawTransaction"] = "swallow"
            b.allow(1)
            assert (await b.rail.refund(record, now())).state is Settlement.UNKNOWN
            b.node.faults.clear()
            await b.chain.transfer(GAS_KEY, address(GAS_KEY), 1)  # uses the leased nonce
            await b.rail.maintain(now())
            assert "lost" not in {state for _, state in await b.submissions()}
            monkeypatch.setattr(outbox, "LOST_DEPTH", 0)
            await paid_once(b, record)
            assert "lost" in {state for _, state in await b.submissions()}

    asyncio.run(main())


@pytest.mark.parametrize(
    "said", ["nonce too low", "insufficient funds for gas", "replacement transaction underpriced"]
)
def test_a_refund_that_one_node_took_and_another_one_called_refused_is_paid_once(
    tmp_path, monkeypatch, said
):
    monkeypatch.setattr(outbox, "LOST_DEPTH", 0)

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            sending, said_so = b.rail._chain.send, []

            async def send(raw: bytes) -> None:
                await sending(raw)
                if len(said_so) < 3:
                    said_so.append(raw)
                    raise RpcRefused(-32000, said)

            b.rail._chain.send = send
            b.node.faults["eth_getTransactionReceipt"] = "null"
            b.allow(1)
            for _ in range(3):
                await b.rail.refund(record, now())
                await b.rail.maintain(now())
            assert said_so
            b.node.faults.clear()
            await paid_once(b, record)

    asyncio.run(main())


def test_a_node_whose_receipts_lag_behind_its_counts_has_no_refund_paid_twice(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(outbox, "LOST_DEPTH", 2)

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            b.node.faults["eth_getTransactionReceipt"] = "null"
            b.allow(1)
            assert (await b.rail.refund(record, now())).state is Settlement.UNKNOWN
            for _ in range(5):
                await b.chain.mint(address(GAS_KEY), 1)  # a block each
                await b.rail.maintain(now())
                await b.rail.refund(record, now())
            b.node.faults.clear()
            await paid_once(b, record)

    asyncio.run(main())


def test_a_refund_that_is_not_deep_enough_yet_is_not_paid_again(tmp_path, monkeypatch):
    """More confirmations than the depth at which somebody else's use of a nonce is believed."""
    monkeypatch.setattr(outbox, "LOST_DEPTH", 2)

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            b.rail._chain._confirmations = 6
            b.allow(1)
            assert (await b.rail.refund(record, now())).state is Settlement.UNKNOWN
            for _ in range(7):
                await b.chain.mint(address(GAS_KEY), 1)
                await b.rail.maintain(now())
                await b.rail.refund(record, now())
            await paid_once(b, record)

    asyncio.run(main())


def test_a_refund_that_a_reorganisation_took_back_is_sent_again_under_its_nonce(tmp_path):
    """Sent under another one, both may be mined when the blocks come back."""

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            await b.chain.run(lambda node: setattr(node, "automine", False))
            b.allow(1)
            assert (await b.rail.refund(record, now())).state is Settlement.UNKNOWN
            before = await b.submissions()
            await b.chain.run(lambda node: node._pool.clear())
            await b.chain.run(lambda node: setattr(node, "automine", True))
            await b.database.write(lambda db: db.execute("UPDATE submissions SET state = 'done'"))
            await paid_once(b, record)
            assert [nonce for nonce, _ in await b.submissions()] == [nonce for nonce, _ in before]

    asyncio.run(main())


def test_a_gap_that_a_refund_left_is_filled_by_that_very_refund(tmp_path):
    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            await b.chain.run(lambda node: setattr(node, "automine", False))
            b.allow(1)
            assert (await b.rail.refund(record, now())).state is Settlement.UNKNOWN
            await b.chain.run(lambda node: node._pool.clear())
            await b.database.write(lambda db: db.execute("UPDATE submissions SET state = 'done'"))
            later = b.presented(b"2" * 16)
            assert (await b.settle(later)).state is Settlement.UNKNOWN
            await b.chain.run(lambda node: setattr(node, "automine", True))
            b.allow()
            await b.rail.maintain(now())
            await b.rail.maintain(now() + GAP_S)
            assert (await b.settle(later)).state is Settlement.SETTLED
            assert await b.chain.balance_of(address(PAYER)) == PURSE_MINOR - later.amount_minor
            assert (await b.rail.refund(record, now())).state is Settlement.SETTLED
            assert await b.chain.balance_of(address(PAYER)) == PURSE_MINOR - later.amount_minor

    asyncio.run(main())


# What a buyer may provoke


@pytest.mark.parametrize("target", ["/api/paid", "/api/first"])
def test_asking_and_hanging_up_makes_no_refunds(tmp_path, target):
    """Each would cost the seller two transfers and the upstream's work."""
    with selling(tmp_path) as gateway:
        gateway.keeper.opened.clear()
        credential = gateway.buy(target)
        client = RawClient(gateway.port)
        field = f"Authorization: {credential.format()}"
        client.send(f"GET {target} HTTP/1.1\r\nHost: g\r\n{field}\r\n\r\n".encode())
        wait_until(lambda: gateway.hits == 1, "the upstream is at it")
        client.close()
        wait_until(lambda: gateway.proxy.orphans == 1, "the gateway has noticed")
        gateway.keeper.opened.set()
        state = "credited" if target == "/api/paid" else "settled"
        gateway.reaches(**{state: 1})
        assert refunds(gateway) == []


def test_what_the_upstream_refuses_is_a_credit_and_no_refund(tmp_path):
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("404 No", body=b"no such city")
        answer = gateway.send(gateway.buy("/api/first"), "/api/first")
        assert (answer[0], answer[2]) == (404, b"no such city")
        assert answer[1]["payment-outcome"].startswith("credited;until=@")
        assert (gateway.states(), refunds(gateway)) == ({"credited": 1}, [])


def test_a_gateway_restarted_without_the_payees_key_keeps_the_debt(tmp_path):
    with paid_parts(tmp_path, routes=ROUTES, pays_itself=True, thread=None) as gateway:
        gateway.start()
        gateway.keeper.answers("500 Oops")

        async def fail() -> None:
            gateway.node.faults["eth_estimateGas"] = "500"

        gateway.keeper.before = fail
        refunding(gateway.send(gateway.buy("/api/first"), "/api/first"))
        gateway.stop()
        gateway.node.faults.clear()
        gateway.keeper.before = None
        other = "0x" + "77" * 32
        key = gateway.config.split('private_key: "')[1].split('"')[0]
        changed = gateway.config.replace(key, other).replace(", on_failure: refund", "")
        gateway.start(changed)
        gateway.proxy.call(gateway.proxy.runtime.serving.resolver.round)
        assert gateway.states() == {"refunding": 1}
        gateway.stop()
        gateway.start()
        paid_back(gateway)
        gateway.stop()


def test_what_is_unknown_is_resolved_with_no_buyer_at_hand(tmp_path):
    """A buyer that never comes back must not leave the books open for ever."""
    with own_chain() as thread, paid_gateway(tmp_path, thread=thread, timeouts=SHORT) as gateway:
        gateway.keeper.answers("200 OK", body=b"served")
        credential = gateway.buy()
        gateway.node.faults |= {
            "eth_sendRawTransaction": "lost",
            "eth_getTransactionReceipt": "hang",
        }
        refused(gateway.send(credential), "settlement-unknown", 503)
        gateway.node.faults.clear()
        gateway.reaches(unknown=1)
        resolver = gateway.proxy.runtime.serving.resolver
        wait_until(
            lambda: gateway.proxy.call(resolver.round) and gateway.states() == {"credited": 1},
            "the resolver asks the chain",
        )
        hits = gateway.hits
        assert gateway.send(credential)[::2] == (200, b"served")
        assert (gateway.hits, gateway.balance()) == (hits + 1, PRICE)


def test_a_record_says_nothing_that_could_move_the_payers_money():
    fields = set(PaymentRecord.__dataclass_fields__)
    assert not fields & {"signature", "evidence", "credential"}


def test_a_credit_of_an_earlier_version_finds_its_way_back(tmp_path):
    """Its row does not say who was paid; the credential that is presented again does."""
    with selling(tmp_path) as gateway:
        gateway.keeper.answers("404 No")
        credential = gateway.buy("/api/first")
        gateway.send(credential, "/api/first")
        gateway.reaches(credited=1)
        gateway.stop()
        gateway.place.write("UPDATE exchanges SET payee = ''")
        gateway.start()
        gateway.keeper.answers("500 Oops")
        refunding(gateway.send(credential, "/api/first"))
        paid_back(gateway)


def test_a_payment_of_ours_is_found_however_many_blocks_ago_it_was_made(tmp_path, monkeypatch):
    """A gateway that was down for hours knows its transactions; the logs are searched last."""
    monkeypatch.setattr(blocks, "LOG_WINDOWS", (1,))
    monkeypatch.setattr(blocks, "WINDOWS_MAX", 1)

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            for _ in range(5):
                await b.chain.mint(address(GAS_KEY), 1)
            assert (await b.rail.look_up(record, now())).state is Settlement.SETTLED

    asyncio.run(main())


def test_a_payment_by_others_is_searched_for_window_by_window(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LOG_WINDOWS", (1,))

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            for _ in range(5):
                await b.chain.mint(address(GAS_KEY), 1)
            await b.database.write(lambda db: db.execute("DELETE FROM broadcasts"))
            assert (await b.rail.look_up(record, now())).state is Settlement.SETTLED
            monkeypatch.setattr(blocks, "WINDOWS_MAX", 1)
            assert (await b.rail.look_up(record, now())).state is Settlement.UNKNOWN

    asyncio.run(main())


@pytest.mark.parametrize("other", ["chain_id", "token"])
def test_play_money_is_not_paid_back_in_real_money(tmp_path, other):
    """The store was made with a test network, and the method of that name is a real one now."""

    async def main() -> None:
        async with owed(tmp_path) as (b, record):
            changed = {"chain_id": 8453, "token": b"\x11" * 20}[other]
            b.rail._settings = dataclasses.replace(b.rail._settings, **{other: changed})
            before = await b.chain.balance_of(address(PAYER))
            assert (await b.rail.refund(record, now())).state is Settlement.REFUSED
            assert await b.chain.balance_of(address(PAYER)) == before
            # Nor is what this network does not know of called unpaid.
            assert (await b.rail.look_up(record, now())).state is Settlement.UNKNOWN

    asyncio.run(main())
