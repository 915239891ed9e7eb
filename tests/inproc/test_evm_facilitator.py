"""The rail through a stand-in facilitator: what it says, what the chain says, and which counts."""

import asyncio

import pytest

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi
from tests.support.evm import (
    PAYEE,
    PAYER,
    PRICE,
    PURSE_MINOR,
    STRANGER,
    Bench,
    address,
    bench,
    now,
)
from tests.support.facilitator import StandInFacilitator, stand_in, submit

SETTLED, REFUSED, UNKNOWN = Settlement.SETTLED, Settlement.REFUSED, Settlement.UNKNOWN


def with_a_facilitator(story, tmp_path, *, with_node: bool = True, **options) -> None:
    """Run `story(bench, stand_in)`; without a node the rail only has the facilitator's word."""

    async def run() -> None:
        keep: list[StandInFacilitator] = []
        async with bench(
            tmp_path / "gateway.db", facilitator=stand_in(keep), with_node=with_node, **options
        ) as b:
            await story(b, keep[0])

    asyncio.run(run())


async def nothing_moved(b: Bench) -> None:
    assert await b.balances() == (PURSE_MINOR, 0)


@pytest.mark.parametrize("with_node", [True, False])
def test_a_payment_moves_exactly_the_price(tmp_path, with_node):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        presented = b.presented()
        verified = await b.rail.verify(presented, now())
        assert verified.spendable_minor == (PURSE_MINOR if with_node else None)
        await nothing_moved(b)
        outcome = await b.settle(presented)
        assert outcome.state is SETTLED
        assert outcome.headers[0][0] == "Payment-Receipt"
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)
        assert [path for path, _ in f.asked] == ["/verify", "/settle"]

    with_a_facilitator(story, tmp_path, with_node=with_node)


def test_the_question_is_x402_version_2_with_checksummed_addresses(tmp_path):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        await b.rail.verify(b.presented(), now())
        ((_, body),) = f.asked
        requirements = body["paymentRequirements"]
        assert requirements == {
            "scheme": "exact",
            "network": f"eip155:{b.chain.chain_id}",
            "amount": str(PRICE),
            "asset": checksum(b.chain.token),
            "payTo": PAYEE,
            "maxTimeoutSeconds": b.settings.settle_s,
            "extra": {"assetTransferMethod": "eip3009", "name": "Demo Dollar", "version": "1"},
        }
        payload = body["paymentPayload"]
        assert (body["x402Version"], payload["x402Version"]) == (2, 2)
        assert payload["accepted"] == requirements
        signed = payload["payload"]["authorization"]
        assert (signed["from"], signed["to"]) == (address(PAYER), PAYEE)
        assert all(isinstance(value, str) for value in signed.values())

    with_a_facilitator(story, tmp_path)


@pytest.mark.parametrize("fault", ["hang", "500", "garbage", "401"])
def test_a_facilitator_that_does_not_answer_verification_is_503_not_402(tmp_path, fault):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        f.fault = fault
        b.allow(1)
        with pytest.raises(RailUnavailable) as refusal:
            await b.rail.verify(b.presented(), now())
        assert (refusal.value.status, bool(refusal.value.retry_after_s)) == (503, True)

    with_a_facilitator(story, tmp_path)


@pytest.mark.parametrize(
    ("reason", "problem"),
    [
        ("invalid_exact_evm_payload_signature", VerificationFailed),
        ("insufficient_funds", PaymentInsufficient),
        ("invalid_exact_evm_insufficient_balance", PaymentInsufficient),
        ("invalid_exact_evm_nonce_already_used", VerificationFailed),
        ("My secret is 0xd416888092c090fc965ff682c94d6d9b", VerificationFailed),
    ],
)
def test_an_invalid_payment_is_402_and_free_text_is_not_repeated(tmp_path, reason, problem):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        f.fault = f"error:{reason}"
        with pytest.raises(problem) as refusal:
            await b.rail.verify(b.presented(), now())
        assert refusal.value.status == 402
        assert "secret" not in refusal.value.detail + refusal.value.private

    with_a_facilitator(story, tmp_path)


@pytest.mark.parametrize("with_node", [True, False])
@pytest.mark.parametrize(
    ("fault", "state"),
    [
        ("hang", UNKNOWN),
        ("500", UNKNOWN),
        ("garbage", UNKNOWN),
        ("401", REFUSED),
        ("error:insufficient_funds", REFUSED),
        ("error:invalid_exact_evm_payload_signature", REFUSED),
        ("error:transaction_failed", REFUSED),
        ("error:settlement_pending", UNKNOWN),
        ("error:unexpected_settle_error", UNKNOWN),
        ("error:invalid_exact_evm_nonce_already_used", UNKNOWN),
        ("error:something nobody has heard of", UNKNOWN),
    ],
)
def test_a_facilitator_that_settles_nothing_leads_to_a_named_state(
    tmp_path, fault, state, with_node
):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        presented = b.presented()
        f.fault = fault
        if fault == "hang":
            b.allow(1)
        outcome = await b.settle(presented)
        assert (outcome.state, outcome.headers) == (state, ())
        b.allow()
        await nothing_moved(b)
        f.fault = ""
        assert (await b.settle(presented)).state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    with_a_facilitator(story, tmp_path, with_node=with_node)


@pytest.mark.parametrize("fault", ["lost", "pending"])
def test_a_lost_or_pending_answer_is_looked_up_on_the_chain(tmp_path, fault):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        f.fault = fault
        outcome = await b.settle(b.presented())
        assert outcome.state is SETTLED
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    with_a_facilitator(story, tmp_path)


@pytest.mark.parametrize("fault", ["lost", "pending"])
def test_a_lost_or_pending_answer_is_unknown_until_the_chain_can_be_asked(tmp_path, fault):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        presented = b.presented()
        f.fault = fault
        b.node.faults["*"] = "500"
        assert (await b.settle(presented)).state is UNKNOWN
        b.node.faults.clear()
        seen = await b.rail.look_up(presented.record, now())
        assert seen.state is SETTLED
        assert seen.headers[0][0] == "Payment-Receipt"

    with_a_facilitator(story, tmp_path)


@pytest.mark.parametrize("fault", ["lost", "pending"])
def test_without_a_node_a_lost_or_pending_answer_stays_unknown(tmp_path, fault):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        presented = b.presented()
        f.fault = fault
        assert (await b.settle(presented)).state is UNKNOWN
        assert (await b.rail.look_up(presented.record, now())).state is UNKNOWN

    with_a_facilitator(story, tmp_path, with_node=False)


def test_a_facilitator_that_lies_about_a_payment_makes_no_call_free(tmp_path):
    async def story(b: Bench, f: StandInFacilitator) -> None:
        f.fault = "lie"
        b.allow(1)
        outcome = await b.settle(b.presented())
        assert (outcome.state, outcome.headers) == (UNKNOWN, ())
        await nothing_moved(b)

    with_a_facilitator(story, tmp_path)


def test_a_transaction_of_another_payment_does_not_settle_this_one(tmp_path, monkeypatch):
    """The facilitator names a real transaction of the same payer, payee and price."""

    async def story(b: Bench, f: StandInFacilitator) -> None:
        first = await b.settle(b.presented(b"\1" * 16))

        async def same_again(_body: dict) -> str:
            return first.reference

        monkeypatch.setattr(f, "_submit", same_again)
        b.allow(1)
        outcome = await b.settle(b.presented(b"\2" * 16))
        assert outcome.state is UNKNOWN
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    with_a_facilitator(story, tmp_path)


def test_a_front_run_payment_is_settled_though_the_facilitator_refuses_it(tmp_path):
    async def story(b: Bench, _f: StandInFacilitator) -> None:
        presented = b.presented()
        await b.chain.fund_gas(address(STRANGER))
        payload = abi.transfer_with_authorization(presented.evidence.authorization)
        theirs = await submit(b.chain, payload, STRANGER)
        outcome = await b.settle(presented)
        assert (outcome.state, outcome.reference) == (SETTLED, theirs)
        assert await b.balances() == (PURSE_MINOR - PRICE, PRICE)

    with_a_facilitator(story, tmp_path)


def test_a_facilitator_that_is_not_there_is_known_to_have_settled_nothing(tmp_path):
    async def run() -> None:
        async with bench(tmp_path / "gateway.db", facilitator="http://127.0.0.1:1") as b:
            assert (await b.settle(b.presented())).state is REFUSED
            with pytest.raises(RailUnavailable):
                await b.rail.verify(b.presented(), now())

    asyncio.run(run())


def test_verification_reads_the_chain_beside_the_facilitator(tmp_path):
    async def story(b: Bench, _f: StandInFacilitator) -> None:
        with pytest.raises(PaymentInsufficient):
            await b.rail.verify(b.presented(key=STRANGER), now())
        settled = b.presented()
        await b.settle(settled)
        assert (await b.rail.verify(settled, now())).paid

    with_a_facilitator(story, tmp_path)
