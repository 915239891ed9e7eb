"""What gas costs, what a key has of it, and when both together mean that nothing is sold."""

import logging
from dataclasses import dataclass

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.request import EvmSettings
from mpp_gateway.rails.evm.submissions import Fees
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

log = logging.getLogger(__name__)

GAS_RESERVE = 300_000
"""Gas the key must be able to pay for before a payment is admitted: about four transfers."""
DEAR_RETRY_S = 30


@dataclass(frozen=True, slots=True)
class Market:
    """What we would offer for gas now, and whether the network asks for more than we may pay."""

    fees: Fees
    is_dear: bool = False


class Gas:
    """The gas of one key. It logs when its judgement changes, and knows the last one."""

    def __init__(self, settings: EvmSettings, chain: ChainClient, address: bytes) -> None:
        self._settings = settings
        self._chain = chain
        self._address = address
        self._seen: tuple[int, Market] | None = None
        self._is_low = False
        self._is_dear = False

    @property
    def withheld_for(self) -> str:
        """What gas was last seen to be: above the ceiling, or too little on the key; else empty."""
        if self._is_dear:
            return "Gas costs more than max_fee_gwei."
        return "The gas key cannot pay for the next transactions." if self._is_low else ""

    async def ready(self, now_s: int) -> None:
        """Look at what gas costs, if there is a ceiling. Errors: `RailUnavailable`."""
        if self._settings.max_fee_wei is None:
            return
        try:
            market = await self.market(now_s)
        except (RpcFailed, RpcRefused) as error:
            raise self.unavailable(str(error)) from error
        if market.is_dear:
            raise self._too_dear()

    async def look(self, now_s: int) -> int:
        """Compare what the key has with what gas costs; return its wei.

        Errors: `RpcFailed`, `RpcRefused`.
        """
        market = await self.market(now_s)
        balance = await self._chain.gas_balance(self._address)
        is_low = balance < GAS_RESERVE * market.fees.max_fee_wei
        if is_low != self._is_low:
            words = "too little for gas: offers are withheld" if is_low else "enough for gas again"
            chain_id, account = self._settings.chain_id, checksum(self._address)
            log.warning("chain %d: %s has %s (%d wei)", chain_id, account, words, balance)
        self._is_low = is_low
        return balance

    def check(self, balance_wei: int) -> None:
        """Return if the last look saw gas enough. Errors: `RailUnavailable`."""
        if self._is_dear:
            raise self._too_dear()
        if self._is_low:
            raise self.unavailable(f"{checksum(self._address)} has only {balance_wei} wei for gas")

    async def market(self, now_s: int) -> Market:
        """Return what gas costs now; asked at most once a second.

        Errors: `RpcFailed`, `RpcRefused`.
        """
        if self._seen is not None and self._seen[0] == now_s:
            return self._seen[1]
        block = await self._chain.latest_block()
        try:
            tip = await self._chain.tip_wei()
        except RpcRefused:
            tip = block.base_fee_wei // 10 + 1
        market = self._judged(block.base_fee_wei, tip)
        self._seen = (now_s, market)
        return market

    def _judged(self, base_fee_wei: int, tip_wei: int) -> Market:
        """Compare what the next block asks for with the ceiling, and say so when that changes."""
        ceiling_wei = self._settings.max_fee_wei
        asked_wei = base_fee_wei + tip_wei
        # The node may lie: nothing that it says makes us offer more than the ceiling.
        is_dear = ceiling_wei is not None and asked_wei > ceiling_wei
        if is_dear != self._is_dear:
            words = "too much: offers are withheld" if is_dear else "no longer too much"
            log.warning(
                "chain %d: gas costs %s (%d wei)", self._settings.chain_id, words, asked_wei
            )
        self._is_dear = is_dear
        return Market(Fees(2 * base_fee_wei + tip_wei, tip_wei).capped(ceiling_wei), is_dear)

    def unavailable(self, why: str) -> RailUnavailable:
        """Return the problem of a network that cannot be used; `why` is for the log."""
        return RailUnavailable(
            "The payment network cannot be used now; nothing was charged.",
            private=f"chain {self._settings.chain_id}: {why}",
            retry_after_s=self._settings.retry_after_s,
        )

    def _too_dear(self) -> RailUnavailable:
        settings = self._settings
        return RailUnavailable(
            "Moving a payment costs too much on this network now; nothing was charged.",
            private=f"chain {settings.chain_id}: gas is above {settings.max_fee_wei} wei",
            retry_after_s=DEAR_RETRY_S,
        )
