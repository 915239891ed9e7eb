"""The rail with a gas key of its own, on a real EVM over real HTTP: what moves, what cannot."""

import asyncio
import logging

import pytest

from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.demo.chain import TIP_WEI
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi, submitter
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.own_key import OwnKeySettler
from mpp_gateway.rails.evm.seller import EvmRail, RailMisconfigured
from mpp_gateway.rails.evm.upkeep import GAP_S
from mpp_gateway.rails.jsonrpc import RpcFailed
from tests.support.evm import (
    BINDING,
    GAS_KEY,
    PAYER,
    PRICE,
    PURSE_MINOR,
    SCHEME,
    STRANGER,
    Bench,
    address,
    bench,
    head,
    now,
    settings_of,
    until,
)
from tests.support.facilitator import submit

SETTLED, REFUSED, UNKNOWN = Settlement.SETTLED, Settlement.REFUSED, Settlement.UNKNOWN


def on_a_chain(story, tmp_path, **options) -> None:
    """Run `story(bench)` on a fresh chain."""

    async def run() -> None:
        async with bench(tmp_path / "gateway.db", **options) as b:
            await story(b)

    asyncio.run(run())


async def nothing_moved(b: Bench) -> None:
    assert await b.balances() == (PURSE_MINOR, 0)


def test_a_payment_moves_exactly_the_price_and_says_so_in_the_receipt(tmp_path):
    async def story(b: Bench) -> None:
        await b.rail.self_check()
        presented = b.presented()
        verified = await b.rail.verify(presented, now())
        assert verified.spendable_minor == PURSE_MINOR
        await nothing_moved(b)

        outcome = await b.settle(presented)

        assert outcome.state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        ((name, value),) = outcome.headers
        receipt = Receipt.parse(value)
        assert (name, receipt.method, receipt.reference) == (
            "Payment-Receipt",
            "evm",
            outcome.reference,
        )
        assert receipt.extra == {
            "chainId": b.chain.chain_id,
            "challengeId": presented.challenge_id,
        }
        mined = await b.chain.run(lambda node: node.receipt(outcome.reference))
        assert mined["status"] == "0x1"

    on_a_chain(story, tmp_path)


def test_a_settled_proof_settles_once_however_often_it_is_shown(tmp_path):
    async def story(b: Bench) -> None:
        credential = b.pay()
        presented = b.read(credential)
        first = await b.settle(presented)
        again = await b.settle(b.read(credential))
        verified = await b.rail.verify(b.read(credential), now())

        assert verified.paid  # the claim in the store is what keeps it from buying twice
        assert (first.state, again.state) == (SETTLED, SETTLED)
        assert again.reference == first.reference
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_ten_copies_of_one_proof_settle_once(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        outcomes = await asyncio.gather(*(b.settle(presented) for _ in range(10)))
        assert {o.state for o in outcomes} == {SETTLED}
        assert len({o.reference for o in outcomes}) == 1
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        assert len(await b.submissions()) == 1

    on_a_chain(story, tmp_path)


def test_twenty_payments_at_once_share_one_gas_key_without_a_gap(tmp_path):
    async def story(b: Bench) -> None:
        payments = [b.presented(bytes((n,)) * 16) for n in range(20)]
        outcomes = await asyncio.gather(*(b.settle(p) for p in payments))

        assert {o.state for o in outcomes} == {SETTLED}
        assert len({o.reference for o in outcomes}) == 20
        assert await b.submissions() == [(n, "done") for n in range(20)]
        assert await b.balances() == (PURSE_MINOR - 20 * PRICE, 20 * PRICE)

    on_a_chain(story, tmp_path)


def test_two_processes_share_one_gas_key_and_one_store(tmp_path):
    """Two settlers with a database connection each, as two workers have."""

    async def story(b: Bench) -> None:
        async with _second_worker(b, tmp_path) as other:
            payments = [b.presented(bytes((n,)) * 16) for n in range(12)]
            outcomes = await asyncio.gather(
                *(
                    (b.rail if n % 2 else other).settle(p, PRICE, now())
                    for n, p in enumerate(payments)
                )
            )
        assert {o.state for o in outcomes} == {SETTLED}
        assert await b.submissions() == [(n, "done") for n in range(12)]

    on_a_chain(story, tmp_path)


def test_money_that_left_between_verify_and_settle_is_refused_and_costs_no_nonce(tmp_path):
    async def story(b: Bench) -> None:
        await b.chain.fund_gas(address(PAYER))
        presented = b.presented()
        await b.rail.verify(presented, now())
        await b.chain.transfer(PAYER, address(STRANGER), PURSE_MINOR)

        outcome = await b.settle(presented)

        assert outcome.state is REFUSED
        assert await b.balances() == (0, 0)
        assert await b.submissions() == []

    on_a_chain(story, tmp_path)


def test_a_transaction_that_reverts_in_its_block_is_refused(tmp_path):
    """The money leaves after the simulation, while the transaction waits for its block."""

    async def story(b: Bench) -> None:
        await b.chain.fund_gas(address(PAYER))
        presented = b.presented()
        await b.chain.run(lambda node: setattr(node, "automine", False))
        await b.chain.transfer(PAYER, address(STRANGER), PURSE_MINOR)
        settling = asyncio.create_task(b.settle(presented))
        await until(lambda: "eth_sendRawTransaction" in b.node.calls, "the broadcast")
        await until(lambda: b.node.calls.count("eth_getTransactionReceipt") > 0, "the first poll")
        await b.chain.run(lambda node: node.mine())

        outcome = await settling

        assert outcome.state is REFUSED
        assert await b.balances() == (0, 0)
        assert await b.submissions() == [(0, "done")]

    on_a_chain(story, tmp_path)


def test_a_payer_without_the_money_is_insufficient(tmp_path):
    async def story(b: Bench) -> None:
        with pytest.raises(PaymentInsufficient):
            await b.rail.verify(b.presented(key=STRANGER), now())

    on_a_chain(story, tmp_path)


def test_a_front_run_payment_is_settled_by_whoever_submitted_it(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.chain.fund_gas(address(STRANGER))
        payload = abi.transfer_with_authorization(presented.evidence.authorization)
        theirs = await submit(b.chain, payload, STRANGER)

        outcome = await b.settle(presented)

        assert (outcome.state, outcome.reference) == (SETTLED, theirs)
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_a_cancelled_authorization_is_refused(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.chain.fund_gas(address(STRANGER))
        await submit(b.chain, _cancellation(b, presented.evidence.authorization.nonce), STRANGER)

        with pytest.raises(VerificationFailed):
            await b.rail.verify(presented, now())
        assert (await b.settle(presented)).state is REFUSED
        await nothing_moved(b)

    on_a_chain(story, tmp_path)


def test_a_node_that_hangs_before_anything_is_sent_is_a_refusal(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults["*"] = "hang"
        b.allow(1)
        with pytest.raises(RailUnavailable):
            await b.rail.verify(presented, now())
        assert (await b.settle(presented)).state is REFUSED
        b.node.faults.clear()
        b.allow()
        assert await b.submissions() == []
        assert (await b.settle(presented)).state is SETTLED

    on_a_chain(story, tmp_path)


def test_a_nonce_that_one_answer_calls_used_and_the_chain_does_not_is_no_gap(tmp_path):
    """Given up, it would stay free for good, and every later payment would wait behind it."""

    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "error: nonce too low"
        settling = asyncio.create_task(b.settle(b.presented()))
        await until(lambda: "eth_getTransactionReceipt" in b.node.calls, "it is followed")
        b.node.faults.clear()

        assert (await settling).state is SETTLED
        assert await b.submissions() == [(0, "done")]

    on_a_chain(story, tmp_path)


def test_a_transaction_that_a_balancer_sent_twice_is_found_although_its_nonce_is_used(tmp_path):
    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "twice"
        assert (await b.settle(b.presented())).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


class OneFault(dict):
    """Lets one question fail, and no other."""

    def get(self, method, default=None):
        return self.pop(method) if method in self else default


def test_a_question_that_has_no_answer_keeps_no_other_nonce_waiting(tmp_path):
    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "reset"
        b.allow(1)
        for entropy in (b"1" * 16, b"2" * 16):
            assert (await b.settle(b.presented(entropy))).state is UNKNOWN
        b.allow()
        b.node.faults = OneFault(eth_getTransactionReceipt="500")
        with pytest.raises(RailUnavailable):
            await b.rail.maintain(now())
        assert len(await b.chain.run(lambda node: node.pending())) == 1  # the second one
        assert await b.rail.maintain(now()) == 1
        assert await b.rail.maintain(now()) == 0
        assert await b.submissions() == [(0, "done"), (1, "done")]

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("fault", ["hang", "lost", "reset", "500", "garbage", "no-result"])
def test_a_broadcast_whose_answer_never_comes_is_followed_to_its_block(tmp_path, fault):
    """The transaction may be out there: it is never refused, and found if it was mined."""

    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults["eth_sendRawTransaction"] = fault
        if fault != "lost":
            b.allow(2)
        outcome = await b.settle(presented)
        b.node.faults.clear()
        b.allow()
        if fault == "lost":
            assert outcome.state is SETTLED
            return
        assert outcome.state is UNKNOWN
        await nothing_moved(b)
        await b.rail.maintain(now())
        seen = await b.rail.look_up(presented.record, now())
        assert seen.state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_a_lost_reply_on_a_blind_node_is_unknown_and_then_found(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults = {"eth_sendRawTransaction": "lost", "eth_getTransactionReceipt": "500"}
        b.allow(2)
        outcome = await b.settle(presented)
        assert outcome.state is UNKNOWN
        assert outcome.headers == ()
        b.node.faults.clear()
        b.allow()

        seen = await b.rail.look_up(presented.record, now())

        assert (seen.state, seen.reference) == (SETTLED, outcome.reference)
        assert Receipt.parse(seen.headers[0][1]).reference == outcome.reference
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("method", ["eth_estimateGas", "eth_getBlockByNumber"])
@pytest.mark.parametrize("fault", ["500", "garbage", "no-result", "error: unavailable"])
def test_a_node_that_answers_wrongly_before_the_broadcast_is_a_refusal(tmp_path, method, fault):
    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults[method] = fault
        assert (await b.settle(presented)).state is REFUSED
        await nothing_moved(b)

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("fault", ["500", "garbage", "no-result", "reset", "error: no"])
def test_a_node_that_cannot_be_read_fails_verification_closed(tmp_path, fault):
    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults["*"] = fault
        with pytest.raises(RailUnavailable) as refusal:
            await b.rail.verify(presented, now())
        assert refusal.value.status == 503
        assert refusal.value.retry_after_s
        assert b.node.url not in refusal.value.detail + refusal.value.private

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("words", ["insufficient funds for gas", "transaction underpriced"])
def test_a_refused_transaction_is_erased_and_its_nonce_used_again(tmp_path, words):
    """The signature of a released payment must not be there for a later rebroadcast."""

    async def story(b: Bench) -> None:
        presented = b.presented()
        b.node.faults["eth_sendRawTransaction"] = f"error: {words}"
        assert (await b.settle(presented)).state is REFUSED
        assert await b.submissions() == [(0, "free")]
        assert await b.stored_signatures() == 0
        b.node.faults.clear()
        assert await b.rail.maintain(now()) == 0
        await nothing_moved(b)

        other = await b.settle(b.presented(b"\2" * 16))

        assert other.state is SETTLED
        assert await b.submissions() == [(0, "done")]

    on_a_chain(story, tmp_path)


def test_a_refused_connection_is_known_to_have_sent_nothing(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        dead = ChainClient("http://127.0.0.1:1", b.settings.token, 1)
        settler = OwnKeySettler(b.settings, dead, Inspector(dead), b.database, GAS_KEY)
        rail = EvmRail("demo", b.settings, SCHEME, settler, dead)
        assert (await rail.settle(presented, PRICE, now())).state is REFUSED
        await rail.close()

    on_a_chain(story, tmp_path)


def test_a_nonce_that_somebody_else_used_is_left_and_the_payment_goes_through(tmp_path):
    async def story(b: Bench) -> None:
        assert (await b.settle(b.presented(b"\1" * 16))).state is SETTLED
        await b.chain.fund_gas(address(GAS_KEY))
        payload = abi.transfer(b"\1" * 20, 0)
        await submit(b.chain, payload, GAS_KEY)

        outcome = await b.settle(b.presented(b"\2" * 16))

        assert outcome.state is SETTLED
        assert await b.submissions() == [(0, "done"), (1, "lost"), (2, "done")]
        assert await b.balances() == (PURSE_MINOR - 2 * PRICE, 2 * PRICE)

    on_a_chain(story, tmp_path)


def test_a_gap_left_by_a_crash_is_sent_again_at_the_next_start(tmp_path):
    """Killed after the store had the transaction and before the node had it."""

    async def story(b: Bench) -> None:
        presented = b.presented(b"\1" * 16)
        b.node.faults["eth_sendRawTransaction"] = "reset"
        b.allow(2)
        assert (await b.settle(presented)).state is UNKNOWN
        b.node.faults.clear()
        b.allow()
        async with _second_worker(b, tmp_path) as restarted:
            assert await restarted.maintain(now()) == 1
            later = await restarted.settle(b.presented(b"\2" * 16), PRICE, now())
            assert later.state is SETTLED
            assert await restarted.maintain(now()) == 0
            assert (await restarted.look_up(presented.record, now())).state is SETTLED
        assert await b.submissions() == [(0, "done"), (1, "done")]

    on_a_chain(story, tmp_path)


def test_a_gap_whose_authorization_has_ended_is_filled_with_nothing(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented(b"\1" * 16)
        b.node.faults["eth_sendRawTransaction"] = "reset"
        b.allow(2)
        assert (await b.settle(presented)).state is UNKNOWN
        b.node.faults.clear()
        b.allow()

        assert await b.rail.maintain(presented.valid_until_s) == 1
        assert await b.rail.maintain(presented.valid_until_s) == 0

        await nothing_moved(b)
        assert await b.submissions() == [(0, "done")]
        assert (await b.settle(b.presented(b"\2" * 16))).state is SETTLED

    on_a_chain(story, tmp_path)


def test_a_refused_nonce_below_one_under_way_is_filled_at_once(tmp_path):
    """Otherwise every later payment of the key would wait for a transaction that never comes."""

    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "held error: insufficient funds for gas"
        low = asyncio.create_task(b.settle(b.presented(b"\1" * 16)))
        await until(lambda: "eth_sendRawTransaction" in b.node.calls, "the first broadcast")
        b.node.faults.clear()
        high = await _start(b, b"\2" * 16)
        assert await b.chain.run(lambda node: len(node.pending())) == 1
        b.node.released.set()

        assert (await low).state is REFUSED
        assert (await high).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        await b.rail.maintain(now())
        assert await b.submissions() == [(0, "done"), (1, "done")]

    on_a_chain(story, tmp_path)


# Gaps: a nonce that is on no list of what is under way, and that later ones wait for.


async def dropped(b: Bench) -> None:
    """Let the chain forget what waits for a block, as after a reorganisation."""
    await b.chain.run(lambda node: node._pool.clear())


async def mend(b: Bench) -> None:
    """Look twice, as far apart as a lagging node deserves."""
    await b.rail.maintain(now())
    await b.rail.maintain(now() + GAP_S)


async def gone(b: Bench, state: str, entropy: bytes = b"\1" * 16):
    """A payment that the store calls `state`, and of which the chain knows nothing."""
    await b.chain.run(lambda node: setattr(node, "automine", False))
    b.allow(1)
    presented = b.presented(entropy)
    assert (await b.settle(presented)).state is UNKNOWN
    await dropped(b)
    await b.chain.run(lambda node: setattr(node, "automine", True))
    b.allow()
    await change(b, "UPDATE submissions SET state = ?", state)
    if state == "lost":
        await change(b, "DELETE FROM broadcasts")
    return presented


async def change(b: Bench, statement: str, *values: str) -> None:
    await b.database.write(lambda db: db.execute(statement, values))


def test_a_payment_that_a_reorganisation_took_back_is_sent_again_and_keeps_none_waiting(tmp_path):
    async def story(b: Bench) -> None:
        presented = await gone(b, "done")
        later = await _start(b, b"\2" * 16)
        await b.rail.maintain(now())
        assert await b.chain.run(lambda node: node.nonce(address_of(GAS_KEY))) == 0  # it may lag
        await mend(b)
        assert (await later).state is SETTLED
        assert (await b.rail.look_up(presented.record, now())).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - 2 * PRICE, 2 * PRICE)
        assert await b.rail.maintain(now()) == 0
        assert await b.submissions() == [(0, "done"), (1, "done")]

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("why", ["lost", "too late"])
def test_a_nonce_of_which_nothing_is_left_to_send_is_filled_with_nothing(tmp_path, why):
    async def story(b: Bench) -> None:
        await gone(b, "lost" if why == "lost" else "done")
        if why != "lost":
            await change(b, "UPDATE submissions SET valid_until_s = 1")
        later = await _start(b, b"\2" * 16)
        await mend(b)
        assert (await later).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        assert await b.rail.maintain(now()) == 0
        assert await b.submissions() == [(0, "done"), (1, "done")]

    on_a_chain(story, tmp_path)


def test_nonces_that_a_node_has_counted_and_nobody_has_used_are_filled(tmp_path):
    """It lied about the count: the next transaction waits for some that nobody ever sends."""

    async def story(b: Bench) -> None:
        b.node.lies["eth_getTransactionCount"] = lambda _: "0x3"
        later = await _start(b, b"\2" * 16)
        b.node.lies.clear()
        await mend(b)
        assert (await later).state is SETTLED
        assert await b.rail.maintain(now()) == 0
        assert await b.submissions() == [(n, "done") for n in range(4)]
        assert (await b.settle(b.presented(b"\3" * 16))).state is SETTLED

    on_a_chain(story, tmp_path)


def test_a_node_that_lies_about_a_used_nonce_leaves_no_gap(tmp_path):
    async def story(b: Bench) -> None:
        await b.rail.verify(b.presented(), now())  # the count is known
        b.node.lies["eth_getTransactionCount"] = lambda _: "0x2"
        b.node.faults["eth_sendRawTransaction"] = "error: nonce too low"
        b.allow(1)
        first = b.presented(b"\1" * 16)
        outcome = await b.settle(first)
        assert "lost" in dict(await b.submissions()).values(), (outcome, await b.submissions())
        b.node.lies.clear()
        b.node.faults.clear()
        b.allow()
        later = await _start(b, b"\2" * 16)
        await mend(b)
        assert (await later).state is SETTLED
        await mend(b)
        assert await b.rail.maintain(now()) == 0
        assert {state for _, state in await b.submissions()} == {"done"}
        paid = (await b.rail.look_up(first.record, now())).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - (1 + paid) * PRICE, (1 + paid) * PRICE)

    on_a_chain(story, tmp_path)


def test_what_another_program_has_sent_with_the_key_is_not_outbid(tmp_path):
    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "swallow"
        b.allow(1)
        await b.chain.run(lambda node: setattr(node, "automine", False))
        await b.chain.transfer(GAS_KEY, address(GAS_KEY), 0)
        assert (await b.settle(b.presented())).state is UNKNOWN
        assert await b.submissions() == [(1, "open")]
        b.node.faults.clear()
        b.allow()
        await mend(b)
        assert await b.submissions() == [(1, "open")]

    on_a_chain(story, tmp_path)


def test_a_count_that_lags_behind_for_a_moment_has_nothing_sent_anew(tmp_path):
    async def story(b: Bench) -> None:
        assert (await b.settle(b.presented(b"\1" * 16))).state is SETTLED
        await b.chain.run(lambda node: setattr(node, "automine", False))
        b.node.lies["eth_getTransactionCount"] = lambda _: "0x0"
        later = await _start(b, b"\2" * 16)
        await b.rail.maintain(now())
        b.node.lies.clear()
        await b.rail.maintain(now() + GAP_S)
        b.node.lies["eth_getTransactionCount"] = lambda _: "0x0"
        await b.rail.maintain(now() + GAP_S)
        assert await b.submissions() == [(0, "done"), (1, "open")]
        # And where it lags for long, what has a receipt is in its block.
        await b.rail.maintain(now() + 2 * GAP_S)
        assert await b.submissions() == [(0, "done"), (1, "open")]
        await b.chain.run(lambda node: node.mine())
        assert (await later).state is SETTLED

    on_a_chain(story, tmp_path)


def test_a_second_attempt_never_refuses_what_the_first_may_have_sent(tmp_path):
    """The node takes nothing any more; the first transaction is in its pool all the same."""

    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.chain.run(lambda node: setattr(node, "automine", False))
        b.node.faults["eth_sendRawTransaction"] = "lost"
        b.allow(2)
        assert (await b.settle(presented)).state is UNKNOWN
        b.node.faults["eth_sendRawTransaction"] = "error: insufficient funds for gas"

        assert (await b.settle(presented)).state is UNKNOWN

        b.allow()
        assert await b.submissions() == [(0, "open")]
        await b.chain.run(lambda node: node.mine())
        assert (await b.settle(presented)).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_a_caller_that_goes_away_does_not_stop_what_was_begun(tmp_path):
    async def story(b: Bench) -> None:
        await b.chain.run(lambda node: setattr(node, "automine", False))
        presented = b.presented()
        task = asyncio.create_task(b.settle(presented))
        await until(lambda: "eth_sendRawTransaction" in b.node.calls, "the broadcast")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: b.node.calls[-1] == "eth_getTransactionReceipt", "the next poll")
        await b.chain.run(lambda node: node.mine())

        async def is_done() -> bool:
            return await b.submissions() == [(0, "done")]

        await until(is_done, "the end of the settlement")
        assert (await b.rail.look_up(presented.record, now())).state is SETTLED

    on_a_chain(story, tmp_path)


def test_without_a_store_nothing_is_sent(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.database.close()
        outcome = await b.settle(presented)
        assert (outcome.state, outcome.headers) == (UNKNOWN, ())
        assert "eth_sendRawTransaction" not in b.node.calls
        await nothing_moved(b)

    on_a_chain(story, tmp_path)


def test_a_broadcast_that_failed_once_is_repeated_in_time(tmp_path):
    async def story(b: Bench) -> None:
        b.node.faults["eth_sendRawTransaction"] = "reset"
        settling = asyncio.create_task(b.settle(b.presented()))
        await until(lambda: "eth_sendRawTransaction" in b.node.calls, "the broadcast")
        b.node.faults.clear()
        assert (await settling).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_a_stuck_transaction_is_offered_again_for_more_under_its_nonce(tmp_path, monkeypatch):
    monkeypatch.setattr(submitter, "BUMP_AFTER_S", 1)

    async def story(b: Bench) -> None:
        await b.chain.run(lambda node: setattr(node, "automine", False))
        settling = await _start(b, b"\1" * 16)
        first = await b.chain.run(lambda node: next(iter(node.pending())))

        async def is_replaced() -> bool:
            return await b.chain.run(lambda node: node.pending()[0]["hash"] != first["hash"])

        await until(is_replaced, "the second offer")
        second = await b.chain.run(lambda node: next(iter(node.pending())))
        assert second["nonce"] == first["nonce"]
        assert int(second["maxFeePerGas"], 16) * 100 >= int(first["maxFeePerGas"], 16) * 110
        await b.chain.run(lambda node: node.mine())

        outcome = await settling

        assert (outcome.state, outcome.reference) == (SETTLED, second["hash"])
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    on_a_chain(story, tmp_path)


def test_an_authorization_that_dies_unused_is_refused_by_the_chains_clock(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        assert (await b.rail.look_up(presented.record, now())).state is UNKNOWN
        ended = presented.valid_until_s
        await b.chain.run(lambda node: (setattr(node, "_clock", lambda: ended), node.mine_empty()))
        assert (await b.rail.look_up(presented.record, now())).state is REFUSED

    on_a_chain(story, tmp_path)


def test_a_look_up_of_a_nonce_spent_on_the_payer_himself_is_refused(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        await b.chain.fund_gas(address(STRANGER))
        await submit(b.chain, _to_himself(b, presented), STRANGER)
        outcome = await b.rail.look_up(presented.record, now())
        assert outcome.state is REFUSED
        assert (await b.settle(presented)).state is REFUSED
        await nothing_moved(b)

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize("fault", ["500", "hang", "garbage", "error: range too large"])
def test_a_look_up_that_cannot_ask_is_unknown(tmp_path, fault):
    async def story(b: Bench) -> None:
        presented = b.presented()
        assert (await b.settle(presented)).state is SETTLED
        # As if somebody else had submitted it: of our own transaction the receipt would tell.
        await b.database.write(lambda db: db.execute("DELETE FROM broadcasts"))
        b.node.faults["eth_getLogs"] = fault
        b.allow(1)
        assert (await b.rail.look_up(presented.record, now())).state is UNKNOWN

    on_a_chain(story, tmp_path)


def test_an_empty_gas_key_withholds_and_refuses_before_anything_is_sent(tmp_path, caplog):
    async def story(b: Bench) -> None:
        client = ChainClient(b.node.url, b.settings.token, 2)
        poor = OwnKeySettler(
            b.settings, client, Inspector(client), b.database, keccak256(b"no gas")
        )
        rail = EvmRail("demo", b.settings, SCHEME, poor, client)
        assert not rail.withheld_for
        with pytest.raises(RailUnavailable) as refusal:
            await rail.verify(b.presented(), now())
        assert "gas" not in refusal.value.detail
        assert rail.withheld_for == "The gas key cannot pay for the next transactions."
        await b.chain.fund_gas(address(keccak256(b"no gas")), TIP_WEI * 10**8)
        await rail.maintain(now() + 1)
        assert not rail.withheld_for
        await rail.close()

    with caplog.at_level(logging.WARNING):
        on_a_chain(story, tmp_path)
    (poor, rich) = (r.getMessage() for r in caplog.records if " for gas" in r.getMessage())
    assert "has too little for gas: offers are withheld (0 wei)" in poor
    assert "has enough for gas again" in rich


def test_confirmations_are_waited_for(tmp_path):
    async def story(b: Bench) -> None:
        presented = b.presented()
        assert (await b.settle(presented)).state is SETTLED
        deep = ChainClient(b.node.url, b.settings.token, 2, confirmations=3)
        inspector = Inspector(deep)
        key, transfer = presented.evidence.key, presented.evidence.transfer
        early = await inspector.trace(key, transfer, presented.valid_until_s)
        await b.chain.mint(address(STRANGER), 1)
        await b.chain.mint(address(STRANGER), 1)
        late = await inspector.trace(key, transfer, presented.valid_until_s)
        assert (early.state, late.state) == (UNKNOWN, SETTLED)
        await deep.close()

    on_a_chain(story, tmp_path)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"chain_id": 1}, "chain_id"),
        ({"name": "USD Coin"}, "token.name must be 'Demo Dollar'"),
        ({"version": "2"}, "token.version must be '1'"),
        ({"token": b"\x99" * 20}, "token.address"),
    ],
)
def test_a_start_with_wrong_settings_names_the_setting(tmp_path, change, names):
    async def story(b: Bench) -> None:
        wrong = settings_of(b.chain, **change)
        client = ChainClient(b.node.url, wrong.token, 2)
        rail = EvmRail("demo", wrong, SCHEME, b.settler, client)
        with pytest.raises(RailMisconfigured, match=names):
            await rail.self_check()
        await client.close()

    on_a_chain(story, tmp_path)


def test_a_token_that_is_not_there_is_no_answer_rather_than_unused_or_empty(tmp_path):
    async def story(b: Bench) -> None:
        nowhere = ChainClient(b.node.url, b"\x99" * 20, 2)
        with pytest.raises(RpcFailed):
            await nowhere.authorization_used(b"\1" * 20, b"\2" * 32)
        with pytest.raises(RpcFailed):
            await nowhere.balance_of(b"\1" * 20)
        await nowhere.close()

    on_a_chain(story, tmp_path)


def test_the_token_takes_what_read_takes_at_the_edges_of_time(tmp_path):
    """A window that `read` accepts must be one in which the token pays."""

    async def story(b: Bench) -> None:
        presented = b.presented()
        assert b.rail.read(head(b.pay()), (b.offer,), BINDING, now()) is not None
        assert presented.valid_until_s >= now() + 299
        assert (await b.settle(presented)).state is SETTLED

    on_a_chain(story, tmp_path)


# --- support -----------------------------------------------------------------------------------


def _second_worker(b: Bench, tmp_path):
    from contextlib import asynccontextmanager

    from mpp_gateway.ledger.database import Database
    from mpp_gateway.ledger.sqlite import SqliteDriver
    from mpp_gateway.rails.evm.submissions import ONCE_SCHEMA, SUBMISSIONS_SCHEMA

    @asynccontextmanager
    async def opened():
        database = Database(
            SqliteDriver(tmp_path / "gateway.db"), (SUBMISSIONS_SCHEMA, ONCE_SCHEMA)
        )
        database.open()
        client = ChainClient(b.node.url, b.settings.token, b.settings.rpc_s)
        settler = OwnKeySettler(b.settings, client, Inspector(client), database, GAS_KEY)
        rail = EvmRail("demo", b.settings, SCHEME, settler, client)
        yield rail
        await rail.close()
        await database.close()

    return opened()


async def _start(b: Bench, entropy: bytes) -> asyncio.Task:
    """Begin to settle and return once the node has the transaction."""
    before = b.node.calls.count("eth_sendRawTransaction")
    task = asyncio.create_task(b.settle(b.presented(entropy)))
    await until(
        lambda: (
            b.node.calls.count("eth_sendRawTransaction") > before
            and b.node.calls[-1] == "eth_getTransactionReceipt"
        ),
        "the broadcast",
    )
    return task


def _cancellation(b: Bench, nonce: bytes) -> bytes:
    from mpp_gateway.crypto import eip712
    from mpp_gateway.crypto.secp256k1 import address_of, sign

    authorizer = address_of(PAYER)
    struct = eip712.hash_struct(
        eip712.type_hash("CancelAuthorization(address authorizer,bytes32 nonce)"),
        eip712.address(authorizer),
        nonce,
    )
    signature = sign(eip712.signing_digest(b.settings.domain, struct), PAYER)
    return b"".join(
        (
            abi.selector("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"),
            abi.address_word(authorizer),
            nonce,
            abi.uint_word(signature[64]),
            signature[:64],
        )
    )


def _to_himself(b: Bench, presented) -> bytes:
    from dataclasses import replace

    from mpp_gateway.crypto.secp256k1 import sign
    from mpp_gateway.protocol import eip3009

    honest = presented.evidence.authorization
    other = replace(honest, recipient=honest.sender)
    signature = sign(eip3009.digest(other, b.settings.domain), PAYER)
    return abi.transfer_with_authorization(replace(other, signature=signature))
