"""Payments by use (x402's scheme `upto`): signed for the most, settled for what was used.

The buyer ties its permit to one facilitator: nobody else can verify it, nobody else can settle it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.errors import MalformedPayment, RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import permit2, x402
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import (
    InvalidPayload,
    ParseError,
    PaymentExpired,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.protocol.x402_extensions import identifier
from mpp_gateway.protocol.x402_upto import PROXY, UPTO, UptoPermit
from mpp_gateway.rails.base import Offer, Presented, Settlement
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.facilitator_client import Question
from mpp_gateway.rails.evm.facilitators import Facilitators, Look
from mpp_gateway.rails.evm.inspection import LOG_WINDOWS, WINDOWS_MAX
from mpp_gateway.rails.evm.request import (
    Attempt,
    EvmSettings,
    PermitKey,
    Terms,
    holder,
    purse,
)
from mpp_gateway.rails.evm.supported import SPONSORINGS
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused, hexadecimal

PERMIT2 = "permit2"
VALID_UNTIL_MAX_S = 2**33
"""In the year 2242, as for other x402 payments."""
WAITS_MS = (250, 500, 1_000, 2_000)
"""Before each look at a transaction that was named and is in no block yet."""


@dataclass(frozen=True, slots=True)
class Metered:
    """A permit whose terms and signature were checked, and what came with it."""

    key: PermitKey
    permit: UptoPermit
    extensions: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the buyer has signed for a facilitator that pays for its allowance; not looked at."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the chain was seen to have done with a permit before it was settled here."""

    attempt: Attempt
    was_unused: bool


def read(
    payment: x402.X402Payment, offers: tuple[Offer, ...], settings: EvmSettings, now_s: int
) -> Presented | None:
    """Return a payment by use of one of `offers`, signature included; None if it is of none.

    Errors: `MalformedPayment` (400), `VerificationFailed`, `PaymentInsufficient`, `PaymentExpired`.
    """
    if all(offer.upto is None for offer in offers):
        return None
    try:
        permit = UptoPermit.from_payload(payment.proof)
    except InvalidPayload as error:
        raise MalformedPayment(error.detail) from error
    offer = _taken(offers, permit.to)
    if offer is None:
        return None
    _check_terms(settings, payment, permit, offer)
    _check_signature(settings, permit)
    if permit.valid_after > now_s:
        raise VerificationFailed("The permit is not valid yet.")
    if permit.deadline <= now_s:
        raise PaymentExpired("The permit has expired.", at_s=permit.deadline)
    key = PermitKey(settings.chain_id, permit.owner, permit.nonce)
    account = purse(settings.chain_id, settings.token, permit.owner)
    try:
        identified = identifier(payment, account)
    except ParseError as error:
        raise MalformedPayment(f"{str(error).capitalize()}.") from error
    sponsored = {n: v for n, v in payment.extensions.items() if n in SPONSORINGS}
    return Presented(
        rail=offer.rail,
        offer=offer,
        proof_id=str(key),
        account=account,
        payee=purse(settings.chain_id, settings.token, permit.to),
        amount_minor=offer.amount.minor,
        valid_until_s=min(permit.deadline, VALID_UNTIL_MAX_S),
        challenge_id=identified,
        evidence=Metered(key, permit, sponsored),
        gives_change=True,
    )


def _taken(offers: tuple[Offer, ...], payee: bytes) -> Offer | None:
    for offer in offers:
        if offer.upto is not None and Terms.read(offer.request).recipient == payee:
            return offer
    return None


def _check_terms(
    settings: EvmSettings, payment: x402.X402Payment, permit: UptoPermit, offer: Offer
) -> None:
    if permit.token != settings.token:
        raise VerificationFailed("The permit is for another token.")
    if permit.spender != PROXY:
        raise VerificationFailed("The permit is for another spender.")
    if permit.amount_minor < offer.amount.minor:
        raise PaymentInsufficient("The permit is for less than the most that a call costs.")
    if permit.amount_minor > offer.amount.minor:
        raise VerificationFailed("The permit is for more than the most that a call costs.")
    if payment.accepted is None or payment.accepted.get("amount") != str(offer.amount.minor):
        raise VerificationFailed("The payment takes up an offer at another price.")


def _check_signature(settings: EvmSettings, permit: UptoPermit) -> None:
    """Refuse a permit that its owner's key has not signed: garbage costs no disk.

    What a contract wallet has signed is for the facilitator to say, where such may pay at all.
    """
    if settings.takes_contracts:
        return
    try:
        signer = recover_address(permit.digest(settings.chain_id), permit.signature)
    except SignatureError as error:
        raise VerificationFailed(
            "The signature is not one that Permit2 accepts.", private=str(error)
        ) from error
    if signer != permit.owner:
        raise VerificationFailed("The signature is not the payer's, or is for other terms.")


class Upto:
    """Settles such payments; see `rails.base.Rail` for what each step promises."""

    def __init__(
        self, settings: EvmSettings, facilitators: Facilitators, chain: ChainClient | None
    ) -> None:
        self._settings = settings
        self._facilitators = facilitators
        self._chain = chain

    def terms(self, price: Amount, payee: bytes) -> x402.Terms | None:
        """Return what buyers by use are asked for now; None while no facilitator settles it."""
        settings = self._settings
        named = self._facilitators.facilitator_address(UPTO, self._network)
        if named is None:
            return None
        return x402.Terms(
            scheme=UPTO,
            chain_id=settings.chain_id,
            asset=checksum(settings.token),
            amount_minor=price.minor,
            pay_to=checksum(payee),
            extra={
                "name": settings.name,
                "version": settings.version,
                "assetTransferMethod": PERMIT2,
                "facilitatorAddress": named,
            },
            sponsored=self._facilitators.extensions(UPTO, self._network) & SPONSORINGS,
        )

    async def check(
        self, metered: Metered, record: PaymentRecord, now_s: int
    ) -> int | Found | None:
        """Return what the payer has, or None if there is no node to ask; `Found` if it has paid.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`, `SettlementUnknown`.
        """
        if self._chain is None:
            await self._verify(metered, now_s)
            return None
        chain, key = self._chain, metered.key
        try:
            used = await chain.permit_used(key.owner, key.nonce)
            minor = await chain.balance_of(key.owner)
            if used:
                return Found(await self._found(metered, record), was_unused=False)
            if minor < metered.permit.amount_minor:
                raise PaymentInsufficient("The payer's balance does not cover the price.")
            try:
                await self._verify(metered, now_s)
            except (VerificationFailed, PaymentInsufficient):
                # One that has taken the money when it was only asked about it.
                if not await chain.permit_used(key.owner, key.nonce):
                    raise
            if await chain.permit_used(key.owner, key.nonce):
                return Found(await self._found(metered, record), was_unused=True)
        except (RpcFailed, RpcRefused) as error:
            raise RailUnavailable(
                "The payment could not be checked; nothing was charged.",
                private=f"chain {self._settings.chain_id}: {error}",
                retry_after_s=self._settings.retry_after_s,
            ) from error
        return minor

    async def settle(
        self, metered: Metered, used_minor: int, record: PaymentRecord, now_s: int
    ) -> Attempt:
        """Have `used_minor` moved; see `rails.base.Rail.settle`. Of nothing nobody is asked."""
        if not 0 <= used_minor <= metered.permit.amount_minor:
            raise ValueError("no more can move than was signed for")
        if used_minor == 0:
            return Attempt(Settlement.SETTLED, detail="nothing was used", moved_minor=0)
        attempt = await self._facilitators.settle(
            str(metered.key),
            self.question(metered, used_minor),
            self._settings.facilitator_s,
            now_s,
            self._look(metered, record),
        )
        if self._chain is None:
            if attempt.state is not Settlement.SETTLED:
                return attempt
            return Attempt(attempt.state, attempt.reference, moved_minor=used_minor)
        if attempt.state is Settlement.SETTLED:
            return await self._confirm(attempt.reference, metered, record)
        seen = await self._trace(
            metered.key, record, frozenset({metered.permit.facilitator}), attempt.reference
        )
        if seen.is_unused or (attempt.is_untried and seen.state is Settlement.UNKNOWN):
            return attempt
        return seen

    async def look_up(self, key: PermitKey, record: PaymentRecord) -> Attempt:
        """Return what became of a permit, as far as the chain tells."""
        settlers = self._facilitators.settlers(UPTO, self._network)
        return await self._trace(key, record, settlers)

    def question(self, metered: Metered, minor: int) -> Question:
        """Return what the permit's facilitator is asked: the gateway's own terms, over `minor`."""
        settings, permit = self._settings, metered.permit
        accepted = {
            "scheme": UPTO,
            "network": self._network,
            "amount": str(permit.amount_minor),
            "asset": checksum(settings.token),
            "payTo": checksum(permit.to),
            "maxTimeoutSeconds": settings.settle_s,
            "extra": {
                "name": settings.name,
                "version": settings.version,
                "assetTransferMethod": PERMIT2,
                "facilitatorAddress": checksum(permit.facilitator),
            },
        }
        payload: dict[str, Any] = {
            "x402Version": x402.V2,
            "accepted": accepted,
            "payload": permit.to_payload(),
        }
        if metered.extensions:
            payload["extensions"] = dict(metered.extensions)
        return Question(payload, {**accepted, "amount": str(minor)}, settler=permit.facilitator)

    # Inside

    @property
    def _network(self) -> str:
        return f"eip155:{self._settings.chain_id}"

    async def _verify(self, metered: Metered, now_s: int) -> None:
        # Before it is claimed this is not asked: of a payment whose outcome is not known, "another
        # facilitator" would ask a buyer who may have paid to pay again.
        settlers = self._facilitators.settlers(UPTO, self._network)
        if settlers and metered.permit.facilitator not in settlers:
            raise VerificationFailed("The permit is for another facilitator.")
        question = self.question(metered, metered.permit.amount_minor)
        within_s = self._settings.facilitator_s
        await self._facilitators.verify(str(metered.key), question, within_s, now_s)

    async def _found(self, metered: Metered, record: PaymentRecord) -> Attempt:
        seen = await self._trace(metered.key, record, frozenset({metered.permit.facilitator}))
        if seen.state is Settlement.UNKNOWN:
            raise SettlementUnknown(
                "The payment may have been made; do not pay again.",
                private=f"chain {self._settings.chain_id}: {seen.detail}",
                retry_after_s=self._settings.retry_after_s,
            )
        if seen.state is Settlement.REFUSED:
            raise VerificationFailed("This permit was used already.")
        return seen

    def _look(self, metered: Metered, record: PaymentRecord) -> Look | None:
        if self._chain is None:
            return None
        settlers = frozenset({metered.permit.facilitator})

        async def look(tx_hash: str) -> Attempt | None:
            seen = await self._trace(metered.key, record, settlers, tx_hash)
            return seen if seen.state is Settlement.SETTLED else None

        return look

    async def _confirm(self, tx_hash: str, metered: Metered, record: PaymentRecord) -> Attempt:
        """Return whether a transaction that was named has used the permit, and for how much."""
        left_ms, settlers = self._settings.settle_s * 1000, frozenset({metered.permit.facilitator})
        waits = iter(WAITS_MS)
        while True:
            try:
                is_mined = await self._asked.receipt(tx_hash) is not None
                moved = await self._moved_by(tx_hash, metered.key, record, settlers)
                if moved is not None:
                    return Attempt(Settlement.SETTLED, tx_hash, moved_minor=moved)
                if is_mined:
                    why = "the named transaction does not show the payment"
                    return Attempt(Settlement.UNKNOWN, tx_hash, why)
            except (RpcFailed, RpcRefused):
                pass  # the node may answer the next time
            wait_ms = next(waits, WAITS_MS[-1])
            if left_ms <= wait_ms:
                why = "the named transaction is in no block yet"
                return Attempt(Settlement.UNKNOWN, tx_hash, why)
            left_ms -= wait_ms
            await asyncio.sleep(wait_ms / 1000)

    async def _trace(
        self,
        key: PermitKey,
        record: PaymentRecord,
        settlers: frozenset[bytes],
        tx_hash: str = "",
    ) -> Attempt:
        """Return SETTLED if one of `settlers` has used the nonce through the proxy, for the payee.

        A payer can sign the same nonce for a facilitator of its own, and pay a trifle by it; a
        transfer alone may be of any other payment. Neither counts.
        """
        if self._chain is None:
            return Attempt(Settlement.UNKNOWN, detail="no rpc_url: the chain cannot be asked")
        try:
            head = await self._chain.latest_block()
            used = await self._chain.permit_used(key.owner, key.nonce, hex(head.number))
            if not used and head.time_s > record.valid_until_s:
                return Attempt(Settlement.REFUSED, detail="the permit expired unused")
            if not used:
                detail = "the permit is unused so far"
                return Attempt(Settlement.UNKNOWN, detail=detail, is_unused=True)
            if tx_hash:
                moved = await self._moved_by(tx_hash, key, record, settlers)
                if moved is not None:
                    return Attempt(Settlement.SETTLED, tx_hash, moved_minor=moved)
            return await self._search(key, record, settlers, head.number)
        except (RpcFailed, RpcRefused) as error:
            return Attempt(Settlement.UNKNOWN, tx_hash, f"the chain cannot be asked: {error}")

    async def _search(
        self, key: PermitKey, record: PaymentRecord, settlers: frozenset[bytes], last: int
    ) -> Attempt:
        windows = list(LOG_WINDOWS)
        for _ in range(WINDOWS_MAX + len(windows)):
            if not windows or last < 0:
                break
            first = last - windows[0]
            try:
                found = await self._within(key, record, settlers, first, last)
            except RpcRefused:
                windows.pop(0)
                continue
            if found is not None:
                return found
            last = first - 1
        return Attempt(Settlement.UNKNOWN, detail="the nonce is used, by a transaction not found")

    async def _within(
        self,
        key: PermitKey,
        record: PaymentRecord,
        settlers: frozenset[bytes],
        first: int,
        last: int,
    ) -> Attempt | None:
        owner = hexadecimal(abi.address_word(key.owner))
        payee = hexadecimal(abi.address_word(holder(record.payee)))
        moved = [hexadecimal(abi.TRANSFER_TOPIC), owner, payee]
        for log in await self._asked.logs(moved, first, last):
            minor = await self._moved_by(log.tx_hash, key, record, settlers)
            if minor is not None:
                return Attempt(Settlement.SETTLED, log.tx_hash, moved_minor=minor)
        ended = [hexadecimal(abi.NONCES_GIVEN_UP_TOPIC), owner]
        for log in await self._asked.logs(ended, first, last, permit2.ADDRESS):
            word, mask = log.data[: abi.WORD], int.from_bytes(log.data[abi.WORD :])
            if int.from_bytes(word) == key.nonce >> 8 and mask >> (key.nonce & 0xFF) & 1:
                return Attempt(Settlement.REFUSED, log.tx_hash, "the payer has given up the nonce")
        return None

    async def _moved_by(
        self, tx_hash: str, key: PermitKey, record: PaymentRecord, settlers: frozenset[bytes]
    ) -> int | None:
        """Return what a transaction has moved with this very permit; None if it has not."""
        made = await self._asked.made_by(tx_hash)
        if made is None:
            return None
        sender, to, payload = made
        call = abi.read_upto_settle(payload)
        if to != PROXY or call is None or sender != call.facilitator or sender not in settlers:
            return None
        payee, token = holder(record.payee), self._settings.token
        if (call.owner, call.nonce, call.to, call.token) != (key.owner, key.nonce, payee, token):
            return None
        receipt = await self._asked.receipt(tx_hash)
        transfer = Transfer(token, key.owner, payee, call.amount_minor)
        if receipt is None or not receipt.succeeded or call.amount_minor > record.amount_minor:
            return None
        shown = any(transfer.is_shown_by(log) for log in receipt.logs)
        return call.amount_minor if shown else None

    @property
    def _asked(self) -> ChainClient:
        if self._chain is None:
            raise TypeError("without a node there is nothing to look at")
        return self._chain
