"""The chain as a statement: what counts as a payment by proof, and how a node is asked for it."""

import asyncio
from dataclasses import dataclass, field

import pytest

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.blocks import LOG_WINDOWS
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Log
from mpp_gateway.rails.evm.chain import Block, TxReceipt
from mpp_gateway.rails.evm.request import PaymentKey, purse
from mpp_gateway.rails.evm.statement import EvmStatement
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.statement import Booked, Shown, Transferred

CHAIN, TOKEN, PAYEE, PAYER, OTHER = 8453, b"t" * 20, b"p" * 20, b"b" * 20, b"o" * 20
GIVER = b"g" * 20
NONCE, HASH = b"n" * 32, "0x" + "ab" * 32
PROOF = str(PaymentKey(CHAIN, TOKEN, PAYER, NONCE))


def used(payer: bytes = PAYER, nonce: bytes = NONCE, token: bytes = TOKEN) -> Log:
    return Log(token, (abi.AUTHORIZATION_USED_TOPIC, abi.address_word(payer), nonce), b"")


def moved(
    value: int = 5, payer: bytes = PAYER, to: bytes = PAYEE, token: bytes = TOKEN, tx: str = HASH
) -> Log:
    topics = (abi.TRANSFER_TOPIC, abi.address_word(payer), abi.address_word(to))
    return Log(token, topics, abi.uint_word(value), tx)


@dataclass
class Chain:
    """A node that knows one transaction, and caps the range of a question about logs."""

    logs_of: tuple[Log, ...] = ()
    succeeded: bool = True
    height: int = 12_000
    cap: int = 10**9
    broken: bool = False
    number: int = CHAIN
    sent: tuple[Log, ...] = ()
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        if self.broken:
            raise RpcFailed("no answer")
        return TxReceipt(tx_hash, self.succeeded, 7, self.logs_of) if tx_hash == HASH else None

    async def logs(self, topics, first: int, last: int) -> tuple[Log, ...]:
        self.asked.append((first, last))
        if last - first + 1 > self.cap:
            raise RpcRefused(-32005, "range too large")
        if len(topics) == 2:
            assert topics[1] == ["0x" + abi.address_word(GIVER).hex()]
            return self.sent if first <= 9 <= last else ()
        assert topics[2] == ["0x" + abi.address_word(PAYEE).hex()]
        return self.logs_of if first <= 7 <= last else ()

    async def chain_id(self) -> int:
        return self.number

    async def latest_block(self) -> Block:
        return await self.block(self.height)

    async def block(self, number: int) -> Block:
        if self.broken:
            raise RpcFailed("no answer")
        return Block(number, 1_000 + 2 * number, 0)

    async def close(self) -> None:
        pass


def statement(chain: Chain, confirmations: int = 1) -> EvmStatement:
    return EvmStatement("base", chain, CHAIN, TOKEN, {PAYEE}, {GIVER}, confirmations)


def entry(*logs: Log, **node):
    return asyncio.run(statement(Chain(logs, **node)).under(HASH))


def shown(**changes) -> Shown:
    fields = {"proof_id": PROOF, "payee": purse(CHAIN, TOKEN, PAYEE), "amount_minor": 5}
    return Shown(**(fields | {"is_ours": True} | changes))


def booked(**changes) -> Booked:
    fields = {"proof_id": PROOF, "amount_minor": 5}
    names = {"account": purse(CHAIN, TOKEN, PAYER), "payee": purse(CHAIN, TOKEN, PAYEE)}
    return Booked(**(fields | names | changes))


def test_a_transfer_right_behind_its_authorization_is_a_payment():
    found = entry(used(), moved())
    assert found.payments == (shown(),)
    assert (found.place, found.transfers, found.others) == (7, (), 0)


@pytest.mark.parametrize(
    "logs",
    [
        (moved(),),
        (moved(), used()),
        (used(), moved(to=PAYER), moved()),
        (used(payer=OTHER), moved()),
        (used(token=OTHER), moved()),
        (
            Log(TOKEN, (abi.AUTHORIZATION_CANCELED_TOPIC, abi.address_word(PAYER), NONCE), b""),
            moved(),
        ),
        (Log(TOKEN, (abi.AUTHORIZATION_USED_TOPIC, abi.address_word(PAYER)), b""), moved()),
    ],
)
def test_a_transfer_that_no_authorization_made_proves_nothing(logs):
    """Else a payer burns a nonce on himself, and an honest transfer beside it counts for both."""
    found = entry(*logs)
    assert [payment for payment in found.payments if payment.is_ours] == []
    assert found.others == 1


def test_a_log_of_another_contract_between_the_two_changes_nothing():
    found = entry(used(), moved(9, token=OTHER), moved())
    assert found.payments == (shown(),)


@pytest.mark.parametrize(
    "log",
    [
        moved(token=OTHER),
        Log(TOKEN, (abi.TRANSFER_TOPIC, abi.address_word(PAYER)), abi.uint_word(5)),
        Log(TOKEN, (abi.TRANSFER_TOPIC, *[abi.address_word(PAYEE)] * 2), b""),
        Log(TOKEN, (), b""),
    ],
)
def test_what_is_no_transfer_of_the_token_is_not_there(log):
    found = entry(used(), log)
    assert (found.payments, found.transfers, found.others) == ((), (), 0)


def test_two_payments_of_one_transaction_are_two():
    found = entry(used(), moved(), used(nonce=b"m" * 32), moved(6))
    assert [(payment.amount_minor) for payment in found.payments] == [5, 6]


def test_a_payment_to_somebody_else_is_shown_and_not_ours():
    (found,) = entry(used(), moved(to=OTHER)).payments
    assert (found.is_ours, found.payee) == (False, purse(CHAIN, TOKEN, OTHER))


@pytest.mark.parametrize(
    ("reference", "node", "why"),
    [
        (HASH, {"succeeded": False}, "the transaction failed"),
        ("0x" + "cd" * 32, {}, "the transaction is in no block"),
        ("ref-1", {}, "it names no transaction"),
        ("", {}, "it names no transaction"),
    ],
)
def test_where_nothing_was_paid_it_is_said_why(reference, node, why):
    found = asyncio.run(statement(Chain((used(), moved()), **node)).under(reference))
    assert (found.payments, found.why) == ((), why)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, True),
        ({"payee": ""}, True),
        ({"amount_minor": 6}, False),
        ({"proof_id": PROOF[:-1] + "0"}, False),
        ({"payee": purse(CHAIN, TOKEN, OTHER)}, False),
    ],
)
def test_a_payment_is_the_books_by_proof_payee_and_amount(changes, answer):
    assert statement(Chain()).shows(shown(), booked(**changes)) is answer


def test_a_record_without_a_payee_is_shown_by_a_payment_to_us_only():
    stranger = shown(payee=purse(CHAIN, TOKEN, OTHER), is_ours=False)
    assert not statement(Chain()).shows(stranger, booked(payee=""))


def test_a_transfer_back_gives_one_payment_back():
    back = moved(5, payer=PAYEE, to=PAYER)
    found = entry(back, back, moved(4, payer=PAYEE, to=PAYER), moved(5, payer=OTHER, to=PAYER))
    assert found.transfers[0] == Transferred(*[purse(CHAIN, TOKEN, a) for a in (PAYEE, PAYER)], 5)
    assert [statement(Chain()).gives_back(t, booked()) for t in found.transfers] == [
        *(True, True, False, False)
    ]


def test_what_leaves_the_account_of_the_key_is_marked_and_searched_for():
    sent = moved(payer=GIVER, to=OTHER, tx="0x" + "cd" * 32)
    found = entry(sent, moved(payer=OTHER, to=PAYER))
    assert [transferred.is_from_us for transferred in found.transfers] == [True, False]
    chain = Chain((moved(),), sent=(sent,))
    assert searched(chain, 0, 12)[-1] == (12, (HASH, sent.tx_hash))


def test_accounts_that_gave_money_back_by_the_ledger_are_searched_too():
    asked = EvmStatement("base", Chain((moved(payer=OTHER, to=PAYER),)), CHAIN, TOKEN, {PAYEE})
    asked.watch(frozenset(), frozenset({purse(CHAIN, TOKEN, OTHER)}), lambda _: ())
    (found,) = asyncio.run(asked.under(HASH)).transfers
    assert found.is_from_us


def searched(chain: Chain, first: int, last: int) -> list[tuple[int, tuple[str, ...]]]:
    async def search():
        return [found async for found in statement(chain).movements(first, last)]

    return asyncio.run(search())


@pytest.mark.parametrize("cap", [10**9, *LOG_WINDOWS])
def test_every_block_is_searched_once_in_windows_that_the_node_takes(cap):
    chain = Chain((moved(), moved()), cap=cap)
    found = searched(chain, 3, 12_000)
    # Each window is asked for twice: for what came, and for what was sent back.
    taken = list(dict.fromkeys((a, b) for a, b in chain.asked if b - a + 1 <= cap))
    assert [a for a, _ in taken] == [3, *(b + 1 for _, b in taken[:-1])]
    assert (taken[-1][1], found[-1][0]) == (12_000, 12_000)
    assert [references for _, references in found if references] == [(HASH,)]


def test_a_node_that_takes_no_window_cannot_be_asked():
    with pytest.raises(RailUnavailable) as failed:
        searched(Chain(cap=LOG_WINDOWS[-1] - 1), 0, 10_000)
    assert failed.value.private == "range too large"


def test_nothing_is_asked_where_there_is_nothing_to_search():
    chain = Chain()
    assert searched(chain, 8, 7) == []
    assert chain.asked == []


@pytest.mark.parametrize(
    ("unix_s", "block"),
    [(0, 0), (1_000, 0), (1_001, 1), (1_002, 1), (25_000, 12_000), (10**9, 12_000)],
)
def test_a_time_is_found_on_the_chain(unix_s, block):
    assert asyncio.run(statement(Chain()).place_at(unix_s)) == block


def test_what_is_not_deep_enough_is_not_certain():
    assert asyncio.run(statement(Chain(), confirmations=5).newest()) == 11_996
    assert asyncio.run(statement(Chain(height=2), confirmations=5).newest()) == 0


def test_a_node_of_another_chain_is_no_statement():
    with pytest.raises(RailMisconfigured, match="chain_id is 8453, the node at rpc_url says 1"):
        asyncio.run(statement(Chain(number=1)).newest())


def test_a_node_that_does_not_answer_is_unavailable():
    broken = statement(Chain(broken=True))
    for question in (broken.newest(), broken.place_at(1), broken.under(HASH)):
        with pytest.raises(RailUnavailable):
            asyncio.run(question)


def test_payees_of_the_ledger_are_ours_too():
    asked = EvmStatement("base", Chain((used(), moved(to=OTHER))), CHAIN, TOKEN, {PAYEE})
    asked.watch(frozenset({purse(CHAIN, TOKEN, OTHER), "from before"}), frozenset(), lambda _: ())
    (found,) = asyncio.run(asked.under(HASH)).payments
    assert found.is_ours
