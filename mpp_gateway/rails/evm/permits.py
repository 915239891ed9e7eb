"""Payments by permits of Permit2: checked here, used by our own gas key alone."""

from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import permit2
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.blocks import LOG_WINDOWS
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient, TxReceipt
from mpp_gateway.rails.evm.inspection import WINDOWS_MAX
from mpp_gateway.rails.evm.own_key import OwnKeySettler, attempt_of
from mpp_gateway.rails.evm.request import (
    Attempt,
    EvmSettings,
    PermitKey,
    Permitted,
    holder,
    split,
)
from mpp_gateway.rails.evm.submitter import Call, Fate
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused, hexadecimal


class Permits:
    """Uses permits with our own key; see `rails.base.Rail` for what each step promises."""

    def __init__(self, settings: EvmSettings, chain: ChainClient, settler: OwnKeySettler) -> None:
        self._settings = settings
        self._chain = chain
        self._settler = settler

    async def check(self, permitted: Permitted, record: PaymentRecord, now_s: int) -> int | Attempt:
        """Return what the payer can spend through Permit2; SETTLED if the permit has paid.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`, `SettlementUnknown`.
        """
        key = permitted.key
        try:
            used = await self._chain.permit_used(key.owner, key.nonce)
            minor = await self._chain.balance_of(key.owner)
            allowed = await self._chain.allowance(key.owner, permit2.ADDRESS)
        except (RpcFailed, RpcRefused) as error:
            raise self._unavailable(error) from error
        if used:
            return await self._found(record)
        if minor < permitted.total:
            raise PaymentInsufficient("The payer's balance does not cover the price.")
        if allowed < permitted.total:
            raise PaymentInsufficient(
                "The payer lets Permit2 move less than the price.",
                hint="Approve the token for Permit2 first; nothing was charged.",
            )
        await self._settler.check_call(permitted.call, permit2.ADDRESS, now_s)
        return min(minor, allowed)

    async def settle(self, permitted: Permitted, now_s: int) -> Attempt:
        """Use the permit, wait for a block, return what it says."""
        call = Call(str(permitted.key), permit2.ADDRESS, permitted.call, permitted.deadline)
        done = await self._settler.submit(call, now_s)
        if done.receipt is None and done.fate is not Fate.REVERTS:
            return attempt_of(done)
        if done.receipt is not None and _pays(done.receipt, permitted.transfers):
            return Attempt(Settlement.SETTLED, done.tx_hash)
        # An earlier attempt may have used it: then the payee is paid.
        seen = await self._trace(permitted.key, permitted.transfers, permitted.deadline)
        if seen.is_unused:
            return Attempt(Settlement.REFUSED, detail=done.detail or f"{done.tx_hash} failed")
        return seen

    async def look_up(self, key: PermitKey, record: PaymentRecord) -> Attempt:
        """Return what became of a permit, as far as the chain tells."""
        main_minor, shares = split(self._settings, record.amount_minor)
        paid = (holder(record.payee), main_minor), *shares
        transfers = tuple(
            Transfer(self._settings.token, key.owner, to, minor) for to, minor in paid
        )
        return await self._trace(key, transfers, record.valid_until_s)

    async def _found(self, record: PaymentRecord) -> Attempt:
        key = PermitKey.parse(record.proof_id)
        assert key is not None
        seen = await self.look_up(key, record)
        if seen.state is Settlement.UNKNOWN:
            raise SettlementUnknown(
                "The payment may have been made; do not pay again.",
                private=f"chain {self._settings.chain_id}: {seen.detail}",
                retry_after_s=self._settings.retry_after_s,
            )
        if seen.state is Settlement.REFUSED:
            raise VerificationFailed("This permit was used already.")
        return seen

    async def _trace(
        self, key: PermitKey, transfers: tuple[Transfer, ...], deadline: int
    ) -> Attempt:
        """Return SETTLED if a transaction of ours has used the nonce for exactly this.

        Nobody else can use it for anything: the contract takes a permit from its spender alone.
        """
        try:
            head = await self._chain.latest_block()
            used = await self._chain.permit_used(key.owner, key.nonce, hex(head.number))
            if not used and head.time_s > deadline:
                return Attempt(Settlement.REFUSED, detail="the permit expired unused")
            if not used:
                detail = "the permit is unused so far"
                return Attempt(Settlement.UNKNOWN, detail=detail, is_unused=True)
            sent = await self._settler.sent_for(str(key))
            receipts = [(tx_hash, await self._chain.receipt(tx_hash)) for tx_hash in sent]
        except (RpcFailed, RpcRefused) as error:
            return Attempt(Settlement.UNKNOWN, detail=f"the chain cannot be asked: {error}")
        for tx_hash, receipt in receipts:
            if receipt is not None and _pays(receipt, transfers):
                return Attempt(Settlement.SETTLED, tx_hash)
        try:
            return await self._search(key, transfers, head.number)
        except (RpcFailed, RpcRefused) as error:
            return Attempt(Settlement.UNKNOWN, detail=f"the chain cannot be asked: {error}")

    async def _search(self, key: PermitKey, transfers: tuple[Transfer, ...], last: int) -> Attempt:
        """Look for what has used a nonce, from the newest block back.

        What a node has denied to have taken is no longer known here by its hash, and may have been
        sent all the same. Without this search its buyer would have paid for nothing.
        """
        windows = list(LOG_WINDOWS)
        for _ in range(WINDOWS_MAX + len(windows)):
            if not windows or last < 0:
                break
            first = last - windows[0]
            try:
                found = await self._within(key, transfers, first, last)
            except RpcRefused:
                windows.pop(0)
                continue
            if found is not None:
                return found
            last = first - 1
        return Attempt(Settlement.UNKNOWN, detail="the nonce is used, by a transaction not found")

    async def _within(
        self, key: PermitKey, transfers: tuple[Transfer, ...], first: int, last: int
    ) -> Attempt | None:
        owner = hexadecimal(abi.address_word(key.owner))
        payee = hexadecimal(abi.address_word(transfers[0].recipient))
        moved = [hexadecimal(abi.TRANSFER_TOPIC), owner, payee]
        for log in await self._chain.logs(moved, first, last):
            if not await self._is_use_of(key, log.tx_hash):
                continue
            receipt = await self._chain.receipt(log.tx_hash)
            if receipt is not None and _pays(receipt, transfers):
                return Attempt(Settlement.SETTLED, log.tx_hash)
            # The shares may have been others when it was bought: a person has to look.
            detail = "it has paid other amounts, or is not deep enough yet"
            return Attempt(Settlement.UNKNOWN, log.tx_hash, detail)
        ended = [hexadecimal(abi.NONCES_GIVEN_UP_TOPIC), owner]
        for log in await self._chain.logs(ended, first, last, permit2.ADDRESS):
            word, mask = log.data[: abi.WORD], int.from_bytes(log.data[abi.WORD :])
            if int.from_bytes(word) == key.nonce >> 8 and mask >> (key.nonce & 0xFF) & 1:
                return Attempt(Settlement.REFUSED, log.tx_hash, "the payer has given up the nonce")
        return None

    async def _is_use_of(self, key: PermitKey, tx_hash: str) -> bool:
        """Tell whether a transaction is one of ours that uses this nonce of this payer."""
        made = await self._chain.made_by(tx_hash)
        if made is None:
            return False
        sender, to, payload = made
        words = {payload[i : i + abi.WORD] for i in range(4, len(payload), abi.WORD)}
        return (
            (sender, to) == (self._settings.submitter, permit2.ADDRESS)
            and payload[:4] in {abi.PERMIT_ONE, abi.PERMIT_MANY}
            and {abi.address_word(key.owner), abi.uint_word(key.nonce)} <= words
        )

    def _unavailable(self, error: Exception) -> RailUnavailable:
        return RailUnavailable(
            "The payment could not be checked; nothing was charged.",
            private=f"chain {self._settings.chain_id}: {error}",
            retry_after_s=self._settings.retry_after_s,
        )


def _pays(receipt: TxReceipt, transfers: tuple[Transfer, ...]) -> bool:
    """Tell whether a transaction shows each of the transfers, a log for each."""
    logs = list(receipt.logs) if receipt.succeeded else []
    for transfer in transfers:
        shown = next((log for log in logs if transfer.is_shown_by(log)), None)
        if shown is None:
            return False
        logs.remove(shown)
    return True
