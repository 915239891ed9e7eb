"""Payments of x402 by Permit2: for the price (`exact`), or for the most and what was used (`upto`).

A buyer by use ties its permit to one facilitator: nobody else can verify it, nobody else can settle
it. A permit for the price may be settled by anybody, through its own proxy.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.crypto.secp256k1 import SignatureError, recover_address
from mpp_gateway.errors import MalformedPayment, RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol import jcs, permit2, x402
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import (
    InvalidPayload,
    ParseError,
    PaymentExpired,
    PaymentInsufficient,
    VerificationFailed,
)
from mpp_gateway.protocol.x402_extensions import identifier
from mpp_gateway.protocol.x402_permits import (
    EXACT_PROXY,
    PERMIT2,
    UPTO,
    UPTO_PROXY,
    X402Permit,
)
from mpp_gateway.rails.base import Offer, Presented, Settlement
from mpp_gateway.rails.evm import abi, used_permits
from mpp_gateway.rails.evm.abi import Transfer
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.facilitator_client import Question
from mpp_gateway.rails.evm.facilitators import Facilitators, Look
from mpp_gateway.rails.evm.request import (
    Attempt,
    EvmSettings,
    PermitKey,
    Terms,
    holder,
    purse,
)
from mpp_gateway.rails.evm.supported import SPONSORINGS
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused

VALID_UNTIL_MAX_S = 2**33
"""In the year 2242, as for other x402 payments."""
WAITS_MS = (250, 500, 1_000, 2_000)
"""Before each look at a transaction that was named and is in no block yet."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """A permit whose terms and signature were checked, and what came with it."""

    key: PermitKey
    permit: X402Permit
    extensions: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What the buyer has signed for a facilitator that pays for its allowance; not looked at."""

    @property
    def scheme(self) -> str:
        """The scheme that it was signed for."""
        return x402.EXACT if self.permit.facilitator is None else UPTO

    def sought(self, record: PaymentRecord, least_minor: int) -> "Sought":
        """Return what the chain has to show of it."""
        own = self.permit.facilitator
        settlers = frozenset() if own is None else frozenset({own})
        return Sought(self.key, record, settlers, least_minor)


@dataclass(frozen=True, slots=True)
class Sought:
    """A used permit that is looked for on the chain, and what of it counts as payment."""

    key: PermitKey
    record: PaymentRecord
    settlers: frozenset[bytes] | None
    """Whose settlements by use count; None: anybody's."""
    least_minor: int
    """What must have moved. A facilitator moves what it is asked to, whoever asks: a payer can have
    a trifle of its own permit settled, and less than we have asked for pays for nothing."""

    def takes_from(self, settler: bytes) -> bool:
        """Tell whether what this account has settled by use counts."""
        return self.settlers is None or settler in self.settlers


@dataclass(frozen=True, slots=True)
class Found:
    """What the chain was seen to have done with a permit before it was settled here."""

    attempt: Attempt
    was_unused: bool


def read(
    payment: x402.X402Payment, offers: tuple[Offer, ...], settings: EvmSettings, now_s: int
) -> Presented | None:
    """Return the payment by permit of one of `offers`, signature included; None if it is of none.

    Errors: `MalformedPayment` (400), `VerificationFailed`, `PaymentInsufficient`, `PaymentExpired`.
    """
    by_use = payment.scheme == UPTO
    sold = [offer for offer in offers if (offer.upto if by_use else offer.permit2) is not None]
    if not sold:
        return None
    try:
        permit = X402Permit.from_payload(payment.proof, by_use=by_use)
    except InvalidPayload as error:
        raise MalformedPayment(error.detail) from error
    offer = next((o for o in sold if Terms.read(o.request).recipient == permit.to), None)
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
    return Presented(
        rail=offer.rail,
        offer=offer,
        proof_id=str(key),
        account=account,
        payee=purse(settings.chain_id, settings.token, permit.to),
        amount_minor=offer.amount.minor,
        valid_until_s=min(permit.deadline, VALID_UNTIL_MAX_S),
        challenge_id=identified,
        evidence=Proxied(key, permit, _sponsored(payment)),
        gives_change=by_use,
    )


def _check_terms(
    settings: EvmSettings, payment: x402.X402Payment, permit: X402Permit, offer: Offer
) -> None:
    if permit.token != settings.token:
        raise VerificationFailed("The permit is for another token.")
    if permit.spender != permit.proxy:
        raise VerificationFailed("The permit is for another spender.")
    if permit.amount_minor < offer.amount.minor:
        raise PaymentInsufficient("The permit is for less than the price.")
    if permit.amount_minor > offer.amount.minor:
        raise VerificationFailed("The permit is for more than the price.")
    if payment.accepted is None or payment.accepted.get("amount") != str(offer.amount.minor):
        raise VerificationFailed("The payment takes up an offer at another price.")


def _sponsored(payment: x402.X402Payment) -> dict[str, Any]:
    """Return what goes to the facilitator as it came; what cannot go there is refused."""
    sponsored = {n: v for n, v in payment.extensions.items() if n in SPONSORINGS}
    try:
        # As deep as it stands in the question. Met there first, it would be a fault of ours.
        jcs.dumps({"paymentPayload": {"extensions": sponsored}})
    except ValueError as error:
        raise MalformedPayment(
            "The payment's extensions cannot be passed on: a fraction, or too deep."
        ) from error
    return sponsored


def _check_signature(settings: EvmSettings, permit: X402Permit) -> None:
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


class X402Permits:
    """Settles such payments; see `rails.base.Rail` for what each step promises."""

    def __init__(
        self, settings: EvmSettings, facilitators: Facilitators, chain: ChainClient | None
    ) -> None:
        self._settings = settings
        self._facilitators = facilitators
        self._chain = chain

    @property
    def is_selling(self) -> bool:
        """Whether somebody may settle such payments; else what was sold before is looked up."""
        return bool(self._facilitators.places)

    def terms(self, scheme: str, price: Amount, payee: bytes) -> x402.Terms | None:
        """Return what buyers under `scheme` are asked for now; None while nobody settles it."""
        settings = self._settings
        sponsored = self._facilitators.sponsorings(scheme, self._network)
        if sponsored is None:
            return None
        named = None
        if scheme == UPTO:
            named = self._facilitators.facilitator_address(UPTO, self._network)
        return x402.Terms(
            scheme=scheme,
            chain_id=settings.chain_id,
            asset=checksum(settings.token),
            amount_minor=price.minor,
            pay_to=checksum(payee),
            extra=self._extra(named),
            sponsored=sponsored,
        )

    async def check(
        self, proxied: Proxied, record: PaymentRecord, now_s: int
    ) -> int | Found | None:
        """Return what the payer has, or None if there is no node to ask; `Found` if it has paid.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`, `SettlementUnknown`.
        """
        if self._chain is None:
            await self._verify(proxied, now_s)
            return None
        chain, key = self._chain, proxied.key
        try:
            used = await chain.permit_used(key.owner, key.nonce)
            minor = await chain.balance_of(key.owner)
            allowed = await chain.allowance(key.owner, permit2.ADDRESS)
            if used:
                return Found(await self._found(proxied, record), was_unused=False)
            if minor < proxied.permit.amount_minor:
                raise PaymentInsufficient("The payer's balance does not cover the price.")
            try:
                await self._verify(proxied, now_s)
            except (VerificationFailed, PaymentInsufficient):
                # One that has taken the money when it was only asked about it.
                if not await chain.permit_used(key.owner, key.nonce):
                    raise
            if await chain.permit_used(key.owner, key.nonce):
                return Found(await self._found(proxied, record), was_unused=True)
        except (RpcFailed, RpcRefused) as error:
            raise RailUnavailable(
                "The payment could not be checked; nothing was charged.",
                private=f"chain {self._settings.chain_id}: {error}",
                retry_after_s=self._settings.retry_after_s,
            ) from error
        # What Permit2 may not move pays for nothing either: ten calls under an allowance for one
        # would be nine for nothing. One call may come with an allowance of its own, yet to be made.
        return min(minor, max(allowed, proxied.permit.amount_minor))

    async def settle(
        self, proxied: Proxied, used_minor: int, record: PaymentRecord, now_s: int
    ) -> Attempt:
        """Have `used_minor` moved; see `rails.base.Rail.settle`. Of nothing nobody is asked."""
        signed_minor, by_use = proxied.permit.amount_minor, proxied.scheme == UPTO
        if not (0 <= used_minor <= signed_minor if by_use else used_minor == signed_minor):
            raise ValueError("nothing can move but what was signed for")
        if used_minor == 0:
            return Attempt(Settlement.SETTLED, detail="nothing was used", moved_minor=0)
        attempt = await self._facilitators.settle(
            str(proxied.key),
            self.question(proxied, used_minor),
            self._settings.facilitator_s,
            now_s,
            self._look(proxied, record, used_minor),
        )
        if self._chain is None:
            if attempt.state is not Settlement.SETTLED or not by_use:
                return attempt
            return Attempt(attempt.state, attempt.reference, moved_minor=used_minor)
        if attempt.state is Settlement.SETTLED:
            return await self._confirm(attempt.reference, proxied.sought(record, used_minor))
        seen = await self._trace(proxied.sought(record, used_minor), attempt.reference)
        if seen.is_unused or (attempt.is_untried and seen.state is Settlement.UNKNOWN):
            return attempt
        return seen

    async def look_up(self, key: PermitKey, record: PaymentRecord) -> Attempt:
        """Return what became of a permit, as far as the chain tells.

        Less than was asked for proves nothing, and stays UNKNOWN. Who has moved it does not matter:
        it may have been a facilitator of before.
        """
        least_minor = record.amount_minor if record.owed_minor is None else record.owed_minor
        return await self._trace(Sought(key, record, None, least_minor))

    def question(self, proxied: Proxied, minor: int) -> Question:
        """Return what a facilitator is asked: the gateway's own terms, over `minor`."""
        settings, permit = self._settings, proxied.permit
        named = None if permit.facilitator is None else checksum(permit.facilitator)
        accepted = {
            "scheme": proxied.scheme,
            "network": self._network,
            "amount": str(permit.amount_minor),
            "asset": checksum(settings.token),
            "payTo": checksum(permit.to),
            "maxTimeoutSeconds": settings.settle_s,
            "extra": self._extra(named),
        }
        payload: dict[str, Any] = {
            "x402Version": x402.V2,
            "accepted": accepted,
            "payload": permit.to_payload(),
        }
        if proxied.extensions:
            payload["extensions"] = dict(proxied.extensions)
        asked = {**accepted, "amount": str(minor)}
        return Question(payload, asked, settler=permit.facilitator, transfer_method=PERMIT2)

    # Inside

    def _extra(self, facilitator: str | None) -> dict[str, str]:
        extra = {
            "name": self._settings.name,
            "version": self._settings.version,
            "assetTransferMethod": PERMIT2,
        }
        return extra if facilitator is None else {**extra, "facilitatorAddress": facilitator}

    @property
    def _network(self) -> str:
        return f"eip155:{self._settings.chain_id}"

    async def _verify(self, proxied: Proxied, now_s: int) -> None:
        # Before it is claimed this is not asked: of a payment whose outcome is not known, "another
        # facilitator" would ask a buyer who may have paid to pay again.
        settlers = self._facilitators.settlers(UPTO, self._network)
        own = proxied.permit.facilitator
        if own is not None and settlers and own not in settlers:
            raise VerificationFailed("The permit is for another facilitator.")
        question = self.question(proxied, proxied.permit.amount_minor)
        within_s = self._settings.facilitator_s
        await self._facilitators.verify(str(proxied.key), question, within_s, now_s)

    async def _found(self, proxied: Proxied, record: PaymentRecord) -> Attempt:
        # Nothing of ours has settled it yet: what counts is the most.
        seen = await self._trace(proxied.sought(record, record.amount_minor))
        if seen.state is Settlement.UNKNOWN:
            raise SettlementUnknown(
                "The payment may have been made; do not pay again.",
                private=f"chain {self._settings.chain_id}: {seen.detail}",
                retry_after_s=self._settings.retry_after_s,
            )
        if seen.state is Settlement.REFUSED:
            raise VerificationFailed("This permit was used already.")
        return seen

    def _look(self, proxied: Proxied, record: PaymentRecord, least_minor: int) -> Look | None:
        if self._chain is None:
            return None
        sought = proxied.sought(record, least_minor)

        async def look(tx_hash: str) -> Attempt | None:
            seen = await self._trace(sought, tx_hash)
            return seen if seen.state is Settlement.SETTLED else None

        return look

    async def _confirm(self, tx_hash: str, sought: Sought) -> Attempt:
        """Return whether a transaction that was named has used the permit, and for how much."""
        left_ms = self._settings.settle_s * 1000
        waits = iter(WAITS_MS)
        while True:
            try:
                is_mined = await self._asked.receipt(tx_hash) is not None
                if seen := await self._moved_by(tx_hash, sought):
                    return seen
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

    async def _trace(self, sought: Sought, tx_hash: str = "") -> Attempt:
        """Return SETTLED if the nonce was used through a proxy, for the payee, as `sought` says.

        A payer can sign the same nonce for a facilitator of its own, and pay a trifle by it; a
        transfer alone may be of any other payment. Neither counts.
        """
        if self._chain is None:
            return Attempt(Settlement.UNKNOWN, detail="no rpc_url: the chain cannot be asked")
        payee, until_s = holder(sought.record.payee), sought.record.valid_until_s
        named = (tx_hash,) if tx_hash else ()

        async def judge(tx_hash: str) -> Attempt | None:
            return await self._moved_by(tx_hash, sought)

        try:
            return await used_permits.trace(self._chain, sought.key, payee, until_s, named, judge)
        except (RpcFailed, RpcRefused) as error:
            return Attempt(Settlement.UNKNOWN, tx_hash, f"the chain cannot be asked: {error}")

    async def _moved_by(self, tx_hash: str, sought: Sought) -> Attempt | None:
        """Return SETTLED if a transaction has moved money with this very permit, else None."""
        key, record = sought.key, sought.record
        made = await self._asked.made_by(tx_hash)
        if made is None:
            return None
        sender, to, payload = made
        call = None
        if to == EXACT_PROXY:
            call = abi.read_exact_settle(payload)
        elif to == UPTO_PROXY:
            call = abi.read_upto_settle(payload)
        if call is None:
            return None
        by_use = call.facilitator is not None
        if by_use and not (sender == call.facilitator and sought.takes_from(sender)):
            return None
        minor, price = call.amount_minor, record.amount_minor
        if not (sought.least_minor if by_use else price) <= minor <= price:
            return None
        payee, token = holder(record.payee), self._settings.token
        if (call.owner, call.nonce, call.to, call.token) != (key.owner, key.nonce, payee, token):
            return None
        receipt = await self._asked.receipt(tx_hash)
        transfer = Transfer(token, key.owner, payee, minor)
        if receipt is None or not receipt.succeeded:
            return None
        if not any(transfer.is_shown_by(log) for log in receipt.logs):
            return None
        return Attempt(Settlement.SETTLED, tx_hash, moved_minor=minor if by_use else None)

    @property
    def _asked(self) -> ChainClient:
        if self._chain is None:
            raise TypeError("without a node there is nothing to look at")
        return self._chain
