"""The chain as an account statement: which transfers by authorization came to our payees, and
which others left the accounts from which we give money back."""

import re
from collections.abc import AsyncIterator, Iterable

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.blocks import by_windows, first_block_at
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Log
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.request import PaymentKey, PermitKey, TxKey, holder, purse
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.statement import Booked, Entry, ProofsOf, Shown, Transferred

_HASH = re.compile(r"0x[0-9a-fA-F]{64}")


class EvmStatement:
    """One token on one chain; see `rails.statement.Statement`. Places are blocks."""

    is_by_time = False

    def __init__(
        self,
        name: str,
        chain: ChainClient,
        chain_id: int,
        token: bytes,
        payees: Iterable[bytes],
        givers: Iterable[bytes] = (),
        confirmations: int = 1,
    ) -> None:
        self._name = name
        self._chain = chain
        self._chain_id = chain_id
        self._token = token
        self._payees = set(payees)
        self._givers = set(givers)
        self._confirmations = confirmations

    async def newest(self) -> int:
        """Return the last block that is deep enough. Errors: see `rails.statement.Statement`."""
        try:
            chain_id = await self._chain.chain_id()
            head = await self._chain.latest_block()
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error
        if chain_id != self._chain_id:
            raise RailMisconfigured(
                f"{self._name}: chain_id is {self._chain_id}, the node at rpc_url says {chain_id}"
            )
        return max(head.number - self._confirmations + 1, 0)

    async def place_at(self, unix_s: int) -> int:
        """Return the first block of that time or later, found by halves."""
        try:
            head = await self._chain.latest_block()
            return await first_block_at(unix_s, head.number, self._time_of)
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error

    async def read_ahead(self, first: int) -> None:
        """Do nothing: a chain is asked by transaction, and searched by `movements`."""

    async def under(self, reference: str) -> Entry:
        """Return what a transaction paid, by its receipt."""
        if not _HASH.fullmatch(reference):
            return Entry(reference, None, why="it names no transaction")
        try:
            receipt = await self._chain.receipt(reference)
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error
        if receipt is None:
            return Entry(reference, None, why="the transaction is in no block")
        if not receipt.succeeded:
            return Entry(reference, receipt.block_number, why="the transaction failed")
        return self._entry(reference, receipt.block_number, receipt.logs)

    def shows(self, shown: Shown, booked: Booked) -> bool:
        """Tell whether this is the payment of the books. See `rails.statement.Statement`."""
        is_permit = PermitKey.parse(booked.proof_id) and TxKey.parse(shown.proof_id)
        # A permit leaves no name in the logs: what its own transaction moved is what it paid, less
        # the shares of others.
        if is_permit and shown.amount_minor > booked.amount_minor:
            return False
        named = shown.proof_id, shown.amount_minor
        if not is_permit and named != (booked.proof_id, booked.amount_minor):
            return False
        payee = _holder(booked.payee)
        # A record from before payees were written down: whoever of ours it is.
        return shown.is_ours if payee is None else holder(shown.payee) == payee

    def gives_back(self, transferred: Transferred, booked: Booked) -> bool:
        """Tell whether a transfer gives this payment back. See `rails.statement.Statement`."""
        ends = transferred.source, transferred.target, transferred.amount_minor
        return ends == (booked.payee, booked.account, booked.amount_minor)

    def watch(self, payees: frozenset[str], givers: frozenset[str], proofs_of: ProofsOf) -> None:  # noqa: ARG002 - logs name them
        """Count these among ours too, as the ledger names them."""
        self._payees |= _holders(payees)
        self._givers |= _holders(givers)

    async def movements(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        """Yield the transactions that moved the token to our payees, or from where we give back.

        A window of blocks at a time.
        """
        moved = "0x" + abi.TRANSFER_TOPIC.hex()
        questions: list[list[str | list[str] | None]] = [[moved, None, _words(self._payees)]]
        if self._givers:
            questions.append([moved, _words(self._givers)])

        async def ask(first: int, last: int) -> tuple[str, ...]:
            logs = [
                log for topics in questions for log in await self._chain.logs(topics, first, last)
            ]
            return tuple(dict.fromkeys(log.tx_hash for log in logs))

        try:
            async for end, hashes in by_windows(ask, first, last):
                yield end, hashes
        except (RpcFailed, RpcRefused) as error:
            raise _unavailable(error) from error

    async def close(self) -> None:
        """Release connections."""
        await self._chain.close()

    async def _time_of(self, number: int) -> int:
        return (await self._chain.block(number)).time_s

    def _entry(self, reference: str, number: int, logs: tuple[Log, ...]) -> Entry:
        payments, transfers, others = [], [], 0
        for moved, nonce in abi.transfers(logs, self._token):
            is_ours = moved.recipient in self._payees
            source, target = self._purse(moved.sender), self._purse(moved.recipient)
            if nonce is None:
                is_from_us = moved.sender in self._givers
                transfers.append(Transferred(source, target, moved.value, is_from_us))
                others += is_ours
                # What buyers send themselves carries no proof: only the books can say that it is a
                # payment, so it is shown to whoever looks for it there and is never one too many.
                key = str(TxKey(self._chain_id, reference))
                payments.append(Shown(key, target, moved.value, is_ours=False))
                continue
            proof = PaymentKey(self._chain_id, self._token, moved.sender, nonce)
            payments.append(Shown(str(proof), target, moved.value, is_ours))
        return Entry(reference, number, tuple(payments), tuple(transfers), others)

    def _purse(self, address: bytes) -> str:
        return purse(self._chain_id, self._token, address)


def _words(addresses: set[bytes]) -> list[str]:
    return ["0x" + abi.address_word(address).hex() for address in sorted(addresses)]


def _holders(purses: frozenset[str]) -> set[bytes]:
    return {found for purse in purses if (found := _holder(purse))}


def _holder(payee: str) -> bytes | None:
    try:
        return holder(payee)
    except ValueError:
        return None  # from before payees were written down


def _unavailable(error: Exception) -> RailUnavailable:
    return RailUnavailable("The node does not answer.", private=str(error))
