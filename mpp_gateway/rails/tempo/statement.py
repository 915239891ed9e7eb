"""Tempo as an account statement: which transfers with a memo of ours came to our payees."""

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.protocol import attribution
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.blocks import by_windows, first_block_at
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.statement import Booked, Entry, ProofsOf, Shown, Transferred
from mpp_gateway.rails.tempo import tip20
from mpp_gateway.rails.tempo.chain import TempoNode
from mpp_gateway.rails.tempo.request import ProofId, holder, purse
from mpp_gateway.rails.tempo.tip20 import Movement, movements

FEE_MANAGER = bytes.fromhex("feec000000000000000000000000000000000000")
"""The contract that fees go to (Tempo's "Fee AMM" specification). They are no part of a payment."""
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")


class TempoStatement:
    """One token on Tempo; see `rails.statement.Statement`. Places are blocks.

    A memo has seven bytes of its challenge's hash, so only who knows the challenge can tell which
    payment it is: the books are asked for those that they have of the transaction.
    """

    is_by_time = False

    def __init__(
        self,
        name: str,
        node: TempoNode,
        chain_id: int,
        token: bytes,
        payees: Iterable[bytes],
        sharers: Iterable[bytes] = (),
    ) -> None:
        self._name = name
        self._node = node
        self._chain_id = chain_id
        self._token = token
        self._payees = set(payees)
        self._sharers = frozenset(sharers)
        self._proofs_of: ProofsOf = lambda _: ()

    async def newest(self) -> int:
        """Return the last block: what is in one is final. Errors: see `Statement`."""
        try:
            chain_id = await self._node.chain_id()
            head, _ = await self._node.block()
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error
        if chain_id != self._chain_id:
            raise RailMisconfigured(
                f"{self._name}: chain_id is {self._chain_id}, the node at rpc_url says {chain_id}"
            )
        return head

    async def place_at(self, unix_s: int) -> int:
        """Return the first block of that time or later."""
        try:
            head, _ = await self._node.block()
            return await first_block_at(unix_s, head, self._time_of)
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error

    async def read_ahead(self, first: int) -> None:
        """Do nothing: a chain is asked by transaction, and searched by `movements`."""

    async def under(self, reference: str) -> Entry:
        """Return what a transaction paid, by its receipt.

        What a proof of zero is booked under is its challenge: nothing moved for it, and the network
        has nothing of it.
        """
        if not _HASH.fullmatch(reference):
            nothing = str(ProofId(self._chain_id, None, reference))
            why = "it names no transaction"
            return Entry(reference, None, (Shown(nothing, "", 0, is_ours=False),), why=why)
        try:
            receipt = await self._node.receipt(reference)
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error
        if receipt is None:
            return Entry(reference, None, why="the transaction is in no block")
        if not receipt.succeeded:
            return Entry(reference, receipt.block_number, why="the transaction failed")
        moved = tuple(movements(receipt.logs, self._token))
        return self._entry(reference, receipt.block_number, moved)

    def shows(self, shown: Shown, booked: Booked) -> bool:
        """Tell whether this is the payment of the books. See `rails.statement.Statement`."""
        if (shown.proof_id, shown.amount_minor) != (booked.proof_id, booked.amount_minor):
            return False
        # Nobody is paid nothing. Names of purses are in lower case.
        return not booked.amount_minor or shown.payee == booked.payee

    def gives_back(self, transferred: Transferred, booked: Booked) -> bool:
        """Tell whether a transfer gives this payment back. See `rails.statement.Statement`."""
        ends = transferred.source, transferred.target, transferred.amount_minor
        return ends == (booked.payee, booked.account, booked.amount_minor)

    def watch(self, payees: frozenset[str], givers: frozenset[str], proofs_of: ProofsOf) -> None:  # noqa: ARG002 - nothing is given back here
        """Count these payees among ours too, as the ledger names them, and name proofs by it."""
        self._payees |= {found for payee in payees if (found := _holder(payee))}
        self._proofs_of = proofs_of

    async def movements(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        """Yield the transactions that moved the token to our payees, a window of blocks at a time.

        A transfer with a memo logs a plain one too, right before it.
        """
        payees = ["0x" + tip20.address_word(payee).hex() for payee in sorted(self._payees)]
        topics = ["0x" + tip20.TRANSFER_TOPIC.hex(), None, payees]

        async def ask(first: int, last: int) -> tuple[str, ...]:
            return await self._node.logged(topics, first, last)

        try:
            async for end, hashes in by_windows(ask, first, last):
                yield end, hashes
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Release connections."""
        await self._node.close()

    # Inside

    async def _time_of(self, number: int) -> int:
        return (await self._node.block(number))[1]

    def _entry(self, reference: str, number: int, moved: tuple[Movement, ...]) -> Entry:
        payments, transfers, others = [], [], 0
        told: set[tuple[bytes, bytes]] = set()
        for movement in moved:
            memo = movement.memo
            if memo is not None and attribution.is_one(memo):
                if (movement.sender, memo) not in told:
                    told.add((movement.sender, memo))
                    payments += self._shown(reference, self._main(movement, moved), memo, moved)
                continue
            source, target = self._purse(movement.sender), self._purse(movement.recipient)
            transfers.append(Transferred(source, target, movement.amount_minor))
            others += movement.recipient in self._payees
        return Entry(reference, number, tuple(payments), tuple(transfers), others)

    def _main(self, named: Movement, moved: tuple[Movement, ...]) -> Movement:
        """Return which of the transfers with one memo is to the seller: shares may have it too."""
        same = [m for m in moved if (m.sender, m.memo) == (named.sender, named.memo)]
        return next((m for m in same if m.recipient in self._payees), named)

    def _shown(
        self, reference: str, main: Movement, memo: bytes, moved: tuple[Movement, ...]
    ) -> list[Shown]:
        """Return what one transfer with a memo paid, together with the shares beside it.

        First with the shares of today's configuration; where it paid others, those of another day,
        this is said too, as a payment that is nobody's: only the books can say that it is one.
        """
        beside = [
            found
            for found in moved
            if found is not main
            and found.sender == main.sender
            and found.memo in {None, memo}
            and found.recipient != FEE_MANAGER
        ]
        shares = sum(found.amount_minor for found in beside if found.recipient in self._sharers)
        everything = sum(found.amount_minor for found in beside)
        proof_id = self._proof_of(reference, memo)
        is_ours = main.recipient in self._payees
        shown = Shown(proof_id, self._purse(main.recipient), main.amount_minor + shares, is_ours)
        if everything == shares:
            return [shown]
        return [
            shown,
            replace(shown, amount_minor=main.amount_minor + everything, is_ours=False),
        ]

    def _proof_of(self, reference: str, memo: bytes) -> str:
        """Return the proof of a memo, as the books name it, or a name that they do not have."""
        of_transaction = str(ProofId(self._chain_id, reference, ""))
        for proof_id in self._proofs_of(of_transaction):
            if attribution.is_for_challenge(memo, proof_id.removeprefix(of_transaction)):
                return proof_id
        return f"{of_transaction}memo-{memo.hex()}"

    def _purse(self, address: bytes) -> str:
        return purse(self._chain_id, self._token, address)


def _holder(payee: str) -> bytes | None:
    try:
        return holder(payee)
    except ValueError:
        return None


def _unavailable(error: Exception) -> RailUnavailable:
    return RailUnavailable("The node does not answer.", private=str(error))
