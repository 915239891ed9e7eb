"""Tempo as a statement: what a memo names, what counts with it, and how a node is asked."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol.attribution import memo_of
from mpp_gateway.rails.blocks import LOG_WINDOWS
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.statement import Booked, Entry, Shown
from mpp_gateway.rails.tempo import tip20
from mpp_gateway.rails.tempo.chain import TxReceipt
from mpp_gateway.rails.tempo.request import purse
from mpp_gateway.rails.tempo.statement import FEE_MANAGER, TempoStatement
from mpp_gateway.rails.tempo.tip20 import Log, address_word

CHAIN, TOKEN, PAYEE, PAYER = 4217, b"t" * 20, b"p" * 20, b"b" * 20
SHARER, OTHER = b"s" * 20, b"o" * 20
HASH, CHALLENGE = "0x" + "ab" * 32, "the-challenge"
MEMO = memo_of(CHALLENGE, "api.example.com")
PROOF = f"tempo:{CHAIN}:{HASH}:{CHALLENGE}"


def moved(minor: int = 5, to: bytes = PAYEE, memo: bytes | None = None, payer: bytes = PAYER):
    """Return what a transfer logs: with a memo a second event, right behind the first."""
    ends, data = (address_word(payer), address_word(to)), minor.to_bytes(32)
    plain = Log(TOKEN, (tip20.TRANSFER_TOPIC, *ends), data)
    noted = Log(TOKEN, (tip20.MEMO_TOPIC, *ends, memo or b""), data)
    return (plain,) if memo is None else (plain, noted)


@dataclass
class Node:
    """A node that knows one transaction, in block 7, and caps the range of a question."""

    logs: tuple[Log, ...] = ()
    cap: int = 10**9
    broken: bool = False
    asked: list[tuple[int, int]] = field(default_factory=list)

    async def receipt(self, tx_hash: str) -> TxReceipt | None:
        return TxReceipt(True, self.logs, 7) if tx_hash == HASH else None

    async def logged(self, topics, first: int, last: int) -> tuple[str, ...]:
        assert topics[2] == ["0x" + address_word(payee).hex() for payee in (OTHER, PAYEE)]
        self.asked.append((first, last))
        if self.broken:
            raise RpcFailed("no answer")
        if last - first + 1 > self.cap:
            raise RpcRefused(-32005, "range too large")
        return (HASH,) if first <= 7 <= last else ()

    async def block(self, number: int | None = None) -> tuple[int, int]:
        number = 12_000 if number is None else number
        return number, 1_000 + number // 2


def statement(node: Node, *proofs: str) -> TempoStatement:
    made = TempoStatement("tempo", node, CHAIN, TOKEN, {PAYEE}, {SHARER})
    payees = frozenset({purse(CHAIN, TOKEN, OTHER), "from before"})
    made.watch(payees, frozenset(), lambda text: [p for p in proofs if p.startswith(text)])
    return made


def entry(*logs: tuple[Log, ...], proofs: tuple[str, ...] = (PROOF,)) -> Entry:
    flat = tuple(log for pair in logs for log in pair)
    return asyncio.run(statement(Node(flat), *proofs).under(HASH))


def ours(entry: Entry) -> list[tuple[str, int]]:
    return [(shown.proof_id, shown.amount_minor) for shown in entry.payments if shown.is_ours]


def booked(minor: int = 5, payee: bytes = PAYEE, proof: str = PROOF) -> Booked:
    return Booked(proof, purse(CHAIN, TOKEN, PAYER), purse(CHAIN, TOKEN, payee), minor)


def is_shown(found: Entry, of_books: Booked) -> bool:
    asked = statement(Node())
    return any(asked.shows(shown, of_books) for shown in found.payments)


def test_a_memo_is_named_by_the_books_and_by_none_but_its_own_challenge():
    others = (f"tempo:{CHAIN}:{HASH}:a-thief", f"tempo:{CHAIN}:0x{'cd' * 32}:{CHALLENGE}")
    assert ours(entry(moved(memo=MEMO), proofs=(*others, PROOF))) == [(PROOF, 5)]
    ((name, minor),) = ours(entry(moved(memo=MEMO), proofs=others))
    assert (name, minor) == (f"tempo:{CHAIN}:{HASH}:memo-{MEMO.hex()}", 5)


@pytest.mark.parametrize("memo", [None, b"an invoice".ljust(32)])
def test_a_transfer_that_names_no_challenge_is_no_payment(memo: bytes | None):
    found = entry(moved(memo=memo))
    assert (found.payments, found.others) == ((), 1)


def test_shares_beside_a_payment_count_and_the_fee_does_not():
    found = entry(moved(8, memo=MEMO), moved(2, SHARER), moved(1, FEE_MANAGER))
    assert ours(found) == [(PROOF, 10)]
    assert is_shown(found, booked(10))
    assert not is_shown(found, booked(11))


@pytest.mark.parametrize("is_first", [False, True])
def test_a_share_with_the_memo_of_its_payment_is_part_of_it(is_first: bool):
    """As pympp sends them: it is no payment of its own."""
    main, share = moved(5, memo=MEMO), moved(2, SHARER, memo=MEMO)

    found = entry(share, main) if is_first else entry(main, share)

    assert ours(found) == [(PROOF, 7)]
    assert len(found.payments) == 1


def test_the_share_of_another_buyer_in_the_same_transaction_does_not_count():
    found = entry(moved(8, memo=MEMO), moved(2, SHARER, payer=OTHER))
    assert ours(found) == [(PROOF, 8)]
    assert not is_shown(found, booked(10))


def test_shares_of_an_earlier_configuration_count_where_they_make_the_price_whole():
    found = entry(moved(8, memo=MEMO), moved(2, b"e" * 20))
    assert ours(found) == [(PROOF, 8)]
    assert is_shown(found, booked(10))
    assert not is_shown(found, booked(9))


def test_a_payment_to_somebody_else_is_not_that_of_the_books():
    found = entry(moved(memo=MEMO))
    assert is_shown(found, booked())
    assert not is_shown(found, booked(payee=SHARER))
    assert not is_shown(found, booked(proof=PROOF + "x"))
    assert ours(entry(moved(to=SHARER, memo=MEMO))) == []


def test_a_payee_that_only_the_books_know_is_ours_too():
    assert ours(entry(moved(to=OTHER, memo=MEMO))) == [(PROOF, 5)]


def test_a_proof_of_zero_shows_itself_and_no_money():
    found = asyncio.run(statement(Node()).under(CHALLENGE))
    zero = f"tempo:{CHAIN}:zero:{CHALLENGE}"
    assert found.payments == (Shown(zero, "", 0, is_ours=False),)
    assert is_shown(found, booked(0, proof=zero))
    assert not is_shown(found, booked(5, proof=zero))
    assert not is_shown(found, booked(0))


def test_a_transaction_that_no_block_has_shows_nothing():
    found = asyncio.run(statement(Node()).under("0x" + "cd" * 32))
    assert (found.place, found.payments) == (None, ())
    assert found.why == "the transaction is in no block"


async def _searched(node: Node, first: int = 1, last: int = 12_000) -> list[str]:
    asked = statement(node).movements(first, last)
    return [tx_hash async for _, hashes in asked for tx_hash in hashes]


@pytest.mark.parametrize("cap", [10**9, *LOG_WINDOWS])
def test_all_blocks_are_searched_each_once_in_windows_that_the_node_takes(cap: int):
    node = Node(cap=cap)
    assert asyncio.run(_searched(node)) == [HASH]
    taken = [(first, last) for first, last in node.asked if last - first + 1 <= cap]
    assert taken[0][0] == 1
    assert taken[-1][1] == 12_000
    assert all(before[1] + 1 == after[0] for before, after in pairwise(taken))


def test_a_node_that_takes_no_window_is_no_end_of_the_search():
    for node in (Node(cap=1), Node(broken=True)):
        with pytest.raises(RailUnavailable):
            asyncio.run(_searched(node))
        assert len(node.asked) == len(LOG_WINDOWS)


@pytest.mark.parametrize(("unix_s", "block"), [(0, 0), (1_000, 0), (1_500, 1_000), (9_999, 12_000)])
def test_the_first_block_of_a_time_is_found(unix_s: int, block: int):
    assert asyncio.run(statement(Node()).place_at(unix_s)) == block
