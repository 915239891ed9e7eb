"""What the chain says of permits that MPP buyers have signed, whichever key of ours used them."""

from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.sql import Connection, StoreUnavailable
from mpp_gateway.protocol import permit2
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm import abi, used_permits
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient, TxReceipt
from mpp_gateway.rails.evm.request import Attempt, EvmSettings, PermitKey, holder, split
from mpp_gateway.rails.evm.submissions import Submissions
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

_NEXT_SENDER = "SELECT min(sender) FROM submissions WHERE chain_id = ? AND sender > ?"


class Senders:
    """Which accounts of ours have sent on one chain, and what: keys may change, the store stays."""

    def __init__(self, database: Database, chain_id: int) -> None:
        self._database = database
        self._chain_id = chain_id

    async def accounts(self) -> tuple[bytes, ...]:
        """Return the accounts. Errors: `StoreUnavailable`."""

        def work(db: Connection) -> tuple[bytes, ...]:
            found, last = [], ""
            while last := db.execute(_NEXT_SENDER, (self._chain_id, last)).fetchone()[0] or "":
                found.append(bytes.fromhex(last[2:]))
            return tuple(found)

        return await self._database.read(work)

    async def sent_for(self, proof_id: str) -> tuple[str, ...]:
        """Return every transaction that is stored for a proof. Errors: `StoreUnavailable`."""
        found: list[str] = []
        for account in await self.accounts():
            own = Submissions(self._database, self._chain_id, account)
            found += await own.sent_for(proof_id)
        return tuple(found)


class PermitTrace:
    """Reads, never writes; needs no key: what was used by an earlier one is found all the same."""

    def __init__(self, settings: EvmSettings, chain: ChainClient, senders: Senders) -> None:
        self._settings = settings
        self._chain = chain
        self._senders = senders

    async def look_up(self, key: PermitKey, record: PaymentRecord) -> Attempt:
        """Return what became of a permit, as far as the chain tells."""
        main_minor, shares = split(self._settings, record.amount_minor)
        paid = (holder(record.payee), main_minor), *shares
        transfers = tuple(
            Transfer(self._settings.token, key.owner, to, minor) for to, minor in paid
        )
        return await self.find(key, transfers, record.valid_until_s)

    async def find(self, key: PermitKey, transfers: tuple[Transfer, ...], deadline: int) -> Attempt:
        """Return SETTLED if a transaction of ours has used the nonce for exactly this.

        Nobody else can use it for anything: the contract takes a permit from its spender alone.
        """

        async def judge(tx_hash: str) -> Attempt | None:
            if not await self._is_use_of(key, tx_hash):
                return None
            receipt = await self._chain.receipt(tx_hash)
            if receipt is not None and pays(receipt, transfers):
                return Attempt(Settlement.SETTLED, tx_hash)
            # The shares may have been others when it was bought: a person has to look.
            detail = "it has paid other amounts, or is not deep enough yet"
            return Attempt(Settlement.UNKNOWN, tx_hash, detail)

        try:
            sent = await self._senders.sent_for(str(key))
            payee = transfers[0].recipient
            return await used_permits.trace(self._chain, key, payee, deadline, sent, judge)
        except (RpcFailed, RpcRefused, StoreUnavailable) as error:
            return Attempt(Settlement.UNKNOWN, detail=f"it cannot be looked for: {error}")

    async def _is_use_of(self, key: PermitKey, tx_hash: str) -> bool:
        """Tell whether a transaction is one of ours that uses this nonce of this payer."""
        made = await self._chain.made_by(tx_hash)
        if made is None:
            return False
        sender, to, payload = made
        is_ours = to == permit2.ADDRESS and sender in await self._senders.accounts()
        # Its own nonce, and no other number that stands in it: a buyer could sign a permit under
        # the deadline of one that has paid, give that nonce up, and be served twice for one price.
        return is_ours and abi.read_permit_use(payload) == (key.owner, key.nonce)


def pays(receipt: TxReceipt, transfers: tuple[Transfer, ...]) -> bool:
    """Tell whether a transaction shows each of the transfers, a log for each."""
    logs = list(receipt.logs) if receipt.succeeded else []
    for transfer in transfers:
        shown = next((log for log in logs if transfer.is_shown_by(log)), None)
        if shown is None:
            return False
        logs.remove(shown)
    return True
