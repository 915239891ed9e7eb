"""The seller's side of the `tempo` rail: offers, challenges, verification, settlement, receipts."""

import asyncio

from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.errors import RailUnavailable, SettlementUnknown
from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import PaymentInsufficient, VerificationFailed
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from mpp_gateway.rails.base import (
    Binding,
    Capabilities,
    Offer,
    Outcome,
    Presented,
    RailMisconfigured,
    Settlement,
    Verified,
)
from mpp_gateway.rails.jsonrpc import RpcFailed, RpcRefused
from mpp_gateway.rails.payment_scheme import PaymentScheme, echoed_request
from mpp_gateway.rails.tempo.chain import TempoNode, TxReceipt, is_of_transaction
from mpp_gateway.rails.tempo.reading import read_payment
from mpp_gateway.rails.tempo.request import (
    INTENT,
    METHOD,
    ProofId,
    Pull,
    Push,
    TempoSettings,
    Terms,
    ZeroProof,
    build_offer,
    chain_and_token,
    holder,
    purse,
    split,
)
from mpp_gateway.rails.tempo.sponsoring import Sponsoring, fee_minor
from mpp_gateway.rails.tempo.tip20 import DECIMALS, Movement, movements
from mpp_gateway.rails.waiting import unchecked, waits_ms

SETTLES_WITHIN_S = 8
"""What a transaction must still live for to be sent: nodes refuse the last three seconds."""
LAG_S = 30
"""By how much another node behind the same address may be late: only after the end of a transaction
and this is a missing receipt the proof that it will never have one."""
BOUNDLESS = 2**256 - 1
BLOCK_MS = 400
"""Every so often Tempo makes a block."""


class TempoRail:
    """One token on Tempo, paid by a signed transaction or a sent one; see `rails.base.Rail`."""

    kind = METHOD

    def __init__(
        self, name: str, settings: TempoSettings, scheme: PaymentScheme, node: TempoNode
    ) -> None:
        self.name = name
        self._settings = settings
        self._scheme = scheme
        self._node = node
        self._sponsoring = None if settings.sponsor is None else Sponsoring(settings.sponsor)
        self.capabilities = Capabilities(
            settles_at="headers",
            can_verify_without_moving_money=True,
            settles_within_s=SETTLES_WITHIN_S,
            settles_brief_proofs_first=True,
        )

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        """Return the offer of a call at `price`; see `request.build_offer`."""
        return build_offer(self.name, self._settings, price, recipient, description)

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        """Return the `WWW-Authenticate` field that carries `offer`."""
        return self._scheme.challenge(offer, binding, now_s, entropy)

    def read(
        self, head: RequestHead, offers: tuple[Offer, ...], binding: Binding, now_s: int
    ) -> Presented | None:
        """Return the credential for this chain and token, signatures included, or None.

        Errors: those of `PaymentScheme.check` and of `reading.read_payment`.
        """
        credential = self._scheme.credential(head, METHOD, INTENT)
        if credential is None:
            return None
        own = tuple(offer for offer in offers if offer.rail == self.name)
        known = any(offer.request_encoded == credential.challenge.request for offer in own)
        if not known:
            paid_with = chain_and_token(echoed_request(credential))
            if paid_with not in {None, (self._settings.chain_id, self._settings.token)}:
                return None
        offer = self._scheme.check(credential, own, binding, now_s)
        return read_payment(self.name, self._settings, credential, offer, now_s)

    async def ready(self, now_s: int) -> None:
        """Return: the rail has nothing of its own that could run out."""

    async def verify(self, presented: Presented, now_s: int) -> Verified:
        """Ask the node whether the payment was made, or would be now.

        Errors: `VerificationFailed`, `PaymentInsufficient`, `RailUnavailable`; `SettlementUnknown`
        for a transaction that its buyer has sent and the node does not know yet.
        """
        match presented.evidence:
            case ZeroProof():
                return Verified(BOUNDLESS)
            case Push() as push:
                return Verified(None, await self._pushed(push, presented, now_s))
            case Pull() as pull:
                return await self._verify_pull(pull, presented, now_s)
        raise TypeError("not a payment that this rail has read")

    async def settle(self, presented: Presented, amount_minor: int, now_s: int) -> Outcome:
        """Broadcast the transaction and wait for its block; see `rails.base.Rail.settle`."""
        if amount_minor != presented.amount_minor:
            raise ValueError("a transaction moves the amount that was signed, no other")
        match presented.evidence:
            case ZeroProof():
                assert presented.challenge_id is not None
                return self._settled(presented.challenge_id, presented.challenge_id, now_s)
            case Pull() as pull:
                return await self._broadcast(pull, presented, now_s)
        raise TypeError("not a payment that this rail settles")

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        """Ask the node what became of the payment, by its transaction's hash.

        SETTLED if a block has it and it made the payment, REFUSED if it failed, or can be in no
        block any more. What it shows of a challenge it shows for good: its id is of one realm.
        """
        proof_id = ProofId.parse(record.proof_id)
        if proof_id.tx_hash is None:
            # A proof of zero moves nothing, so there is nothing to find: it may be shown again.
            return Outcome(Settlement.REFUSED, detail="nothing moves for a price of zero")
        if not self._is_own(record):
            return Outcome(
                Settlement.UNKNOWN,
                detail="it was paid with another token or chain",
                may_be_paid=True,
            )
        try:
            head_s = await self._node.time_s()
            receipt = await self._node.receipt(proof_id.tx_hash)
        except (RpcFailed, RpcRefused) as error:
            return Outcome(
                Settlement.UNKNOWN, detail=f"the chain cannot be asked: {error}", may_be_paid=True
            )
        if receipt is not None:
            outcome = self._judge(receipt, record, proof_id.tx_hash, now_s)
            self._account_for_fee(outcome, proof_id.tx_hash, record, now_s)
            return outcome
        if head_s >= record.valid_until_s + LAG_S:
            return Outcome(Settlement.REFUSED, detail="the transaction ran out, in no block")
        return Outcome(Settlement.UNKNOWN, detail="the transaction is in no block so far")

    def _account_for_fee(
        self, outcome: Outcome, tx_hash: str, record: PaymentRecord, now_s: int
    ) -> None:
        """Note what a fee that was on its way has come to: a failure that is found out late too."""
        sponsoring = self._sponsoring
        if sponsoring is None or not sponsoring.let_go(tx_hash):
            return
        if outcome.state is Settlement.REFUSED:
            sponsoring.failed(holder(record.account), now_s)

    async def refund(self, record: PaymentRecord, now_s: int) -> Outcome:  # noqa: ARG002
        """Refuse: the key of the recipient is not here."""
        return Outcome(Settlement.REFUSED, detail="this rail makes no refunds")

    @property
    def withheld_for(self) -> str:
        """Nothing where buyers pay their fees; else that the account for them has too little."""
        return "" if self._sponsoring is None else self._sponsoring.withheld_for

    async def self_check(self) -> None:
        """Compare the configuration with the node, at start.

        Errors: `RailMisconfigured` names the setting to mend; `RailUnavailable` if the node does
        not answer.
        """
        settings = self._settings
        try:
            chain_id = await self._node.chain_id()
            if chain_id != settings.chain_id:
                raise RailMisconfigured(
                    f"{self.name}: chain_id is {settings.chain_id}, the node at rpc_url says"
                    f" {chain_id}"
                )
            decimals = await self._decimals()
        except RpcFailed as error:
            raise RailUnavailable("The node does not answer.", private=str(error)) from error
        if decimals != DECIMALS:
            raise RailMisconfigured(self._no_token())

    async def maintain(self, now_s: int) -> int:  # noqa: ARG002
        """Return 0: nothing is ever stuck here; see that the node is there, and money for fees.

        Errors: `RailUnavailable`.
        """
        try:
            await self._node.time_s()
            if (sponsoring := self._sponsoring) is not None:
                sponsor = sponsoring.sponsor
                sponsoring.look(await self._node.balance_of(sponsor.address, sponsor.fee_token))
        except (RpcFailed, RpcRefused) as error:
            raise RailUnavailable("The node does not answer.", private=str(error)) from error
        return 0

    async def close(self) -> None:
        """Release connections."""
        await self._node.close()

    # A transaction that we send

    async def _verify_pull(self, pull: Pull, presented: Presented, now_s: int) -> Verified:
        transaction = pull.transaction
        try:
            receipt = await self._node.receipt(transaction.tx_hash)
            if receipt is None:
                return Verified(await self._would_pay(transaction, now_s))
        except (RpcFailed, RpcRefused) as error:
            raise self._unavailable(error) from error
        # Its buyer, or whoever has seen it, was faster: refused, it would have to be paid twice.
        found = self._judge(receipt, presented.record, transaction.tx_hash, now_s)
        if found.state is not Settlement.SETTLED:
            raise VerificationFailed("The transaction was used and did not make this payment.")
        return Verified(None, found)

    async def _would_pay(self, transaction: TempoTransaction, now_s: int) -> int:
        """Return what the sender could spend on calls, its fee set aside where it pays that."""
        unsigned, token = transaction.unsigned, self._settings.token
        fee_token = unsigned.fee_token or token
        pays_fee = transaction.sender
        if unsigned.is_sponsored and self._sponsoring is not None:
            pays_fee = self._sponsoring.sponsor.address
        balance_minor, fee_balance_minor, base_fee = await asyncio.gather(
            self._node.balance_of(transaction.sender),
            self._node.balance_of(pays_fee, fee_token),
            self._node.base_fee(),
        )
        if unsigned.max_fee < base_fee:
            # Nodes do not look at it when they try a call: the upstream would work for a
            # transaction that no block takes, again and again, and nobody has to pay a thing.
            raise VerificationFailed("The transaction offers less for gas than the network asks.")
        fee = fee_minor(unsigned)
        if unsigned.is_sponsored:
            self._check_sponsor(transaction.sender, fee, fee_balance_minor, now_s)
            fee = 0
        spendable_minor = balance_minor - (fee if fee_token == token else 0)
        costs_minor = sum(int.from_bytes(call.data[36:68]) for call in unsigned.calls)
        if fee_balance_minor < fee or spendable_minor < costs_minor:
            raise PaymentInsufficient("The payer's balance does not cover the price and the fee.")
        try:
            await asyncio.gather(
                *(self._node.simulate(transaction, call.data) for call in unsigned.calls)
            )
        except RpcRefused as error:
            if error.is_revert or is_of_transaction(error):
                raise VerificationFailed(
                    "The network would not take the transaction now.", private=error.message
                ) from error
            raise
        return spendable_minor

    def _check_sponsor(self, sender: bytes, fee: int, balance_minor: int, now_s: int) -> None:
        sponsoring = self._sponsoring
        assert sponsoring is not None
        if sponsoring.has_failed(sender, now_s):
            raise VerificationFailed(
                "An earlier transaction of this account failed, and its fee was lost.",
                hint="Pay the fee yourself; nothing was charged for this call.",
            )
        sponsoring.look(balance_minor)
        if not sponsoring.has_room(fee, now_s) or (
            balance_minor < sponsoring.in_flight_minor(now_s) + fee
        ):
            raise RailUnavailable(
                "The fee cannot be paid for you now; nothing was charged.",
                private="too many sponsored fees are on their way, or the account has too little",
                retry_after_s=self._settings.retry_after_s,
            )

    async def _broadcast(self, pull: Pull, presented: Presented, now_s: int) -> Outcome:
        """Send the transaction; set its fee aside meanwhile where it is ours to pay."""
        transaction, sponsoring = pull.transaction, self._sponsoring
        if sponsoring is None or not transaction.unsigned.is_sponsored:
            return await self._sent(transaction, presented, now_s)
        fee, until_s = fee_minor(transaction.unsigned), presented.valid_until_s + LAG_S
        if not sponsoring.set_aside(transaction.tx_hash, fee, until_s, now_s):
            why = "too many sponsored fees are on their way"
            return Outcome(Settlement.REFUSED, detail=why, is_untried=True)
        outcome = await self._sent(transaction, presented, now_s)
        if outcome.state is not Settlement.UNKNOWN:
            sponsoring.let_go(transaction.tx_hash)
        if outcome.state is Settlement.REFUSED and not outcome.is_untried:
            sponsoring.failed(transaction.sender, now_s)
        return outcome

    async def _sent(
        self, transaction: TempoTransaction, presented: Presented, now_s: int
    ) -> Outcome:
        why = "the transaction is in no block yet"
        try:
            await self._node.send(transaction.raw)
        except RpcFailed as error:
            if not error.sent:
                return Outcome(Settlement.REFUSED, detail=str(error), is_untried=True)
            why = str(error)
        except RpcRefused as error:
            # A balancer sends twice and tells us of the second time; and its buyer may have sent it
            # too. Only its end makes it certain that no block will have it.
            why = f"the node says {error.message}"
        for wait_ms in waits_ms(self._settings.settle_s * 1000, BLOCK_MS):
            try:
                receipt = await self._node.receipt(transaction.tx_hash)
            except (RpcFailed, RpcRefused) as error:
                receipt, why = None, str(error)
            if receipt is not None:
                return self._judge(receipt, presented.record, transaction.tx_hash, now_s)
            await asyncio.sleep(wait_ms / 1000)
        return Outcome(Settlement.UNKNOWN, transaction.tx_hash, detail=why)

    # A transaction that the buyer has sent

    async def _pushed(self, push: Push, presented: Presented, now_s: int) -> Outcome:
        try:
            receipt = await self._node.receipt(push.tx_hash)
            head_s = await self._node.time_s()
        except (RpcFailed, RpcRefused) as error:
            raise SettlementUnknown(
                "The payment could not be looked for; do not pay again.",
                private=f"chain {self._settings.chain_id}: {error}",
                retry_after_s=self._settings.retry_after_s,
            ) from error
        if receipt is None and head_s < presented.valid_until_s + LAG_S:
            raise SettlementUnknown(
                "The transaction is in no block that we know of; do not pay again.",
                retry_after_s=self._settings.retry_after_s,
            )
        if receipt is None:
            raise VerificationFailed("There is no such transaction.")
        if not receipt.succeeded:
            raise VerificationFailed("The transaction failed; it paid nothing.")
        if not push.terms.is_paid_by(self._moved(receipt), push.sender):
            raise VerificationFailed(
                "The transaction does not make this payment: token, payer, recipients, amounts and"
                " the memo of this challenge."
            )
        return self._settled(push.tx_hash, presented.challenge_id, now_s)

    # Inside

    def _moved(self, receipt: TxReceipt) -> tuple[Movement, ...]:
        return tuple(movements(receipt.logs, self._settings.token))

    def _judge(
        self, receipt: TxReceipt, record: PaymentRecord, tx_hash: str, now_s: int
    ) -> Outcome:
        """Return whether a mined transaction made the payment of a record."""
        if not receipt.succeeded:
            return Outcome(Settlement.REFUSED, tx_hash, detail="the transaction failed")
        sender, moved = holder(record.account), self._moved(receipt)
        main_minor, shares = split(self._settings, record.amount_minor)
        terms = Terms(record.challenge_id or "", None, (holder(record.payee), main_minor), shares)
        if terms.is_paid_by(moved, sender):
            return self._settled(tx_hash, record.challenge_id, now_s)
        if any(m.sender == sender and terms.is_main(m) for m in moved):
            # The shares may have been others when it was bought: a person has to look.
            return Outcome(
                Settlement.UNKNOWN, tx_hash, detail="it paid other amounts", may_be_paid=True
            )
        return Outcome(Settlement.REFUSED, tx_hash, detail="it did not make this payment")

    def _settled(self, reference: str, challenge_id: str | None, now_s: int) -> Outcome:
        extra: dict[str, object] = {"chainId": self._settings.chain_id}
        if challenge_id is not None:
            extra["challengeId"] = challenge_id
        receipt = self._scheme.receipt(METHOD, reference, now_s, extra)
        return Outcome(Settlement.SETTLED, reference, receipt)

    def _is_own(self, record: PaymentRecord) -> bool:
        settings = self._settings
        own = purse(settings.chain_id, settings.token, b"\0" * 20).rpartition("/")[0]
        return bool(record.payee) and record.payee.rpartition("/")[0] == own

    async def _decimals(self) -> int:
        try:
            return await self._node.decimals()
        except RpcRefused as error:
            raise RailMisconfigured(self._no_token()) from error

    def _no_token(self) -> str:
        token = checksum(self._settings.token)
        return f"{self.name}: currency {token} is not a TIP-20 token of {DECIMALS} decimals"

    def _unavailable(self, error: Exception) -> RailUnavailable:
        why = f"chain {self._settings.chain_id}: {error}"
        return unchecked(why, self._settings.retry_after_s)
