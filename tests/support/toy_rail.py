"""A rail for tests: a bearer key is the proof, and every step has a switch."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mpp_gateway.ledger.book import PaymentRecord
from mpp_gateway.protocol.messages import Headers, RequestHead
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import MalformedCredential, VerificationFailed
from mpp_gateway.rails.base import (
    Binding,
    Capabilities,
    Offer,
    Outcome,
    Presented,
    Settlement,
    Verified,
)

PREFIX = "Bearer toy-"
FOREVER_S = 2**40
RECEIPT = "toy-receipt"

CAPABILITIES = Capabilities(
    settles_at="headers", can_verify_without_moving_money=True, gives_change=True
)

TOY_METHOD = """  toy:
    kind: evm
    chain_id: 84532
    token: {address: "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            name: USDC, version: "2", decimals: 6}
    recipient: "0x0000000000000000000000000000000000000001"
    submit: {facilitator: "http://127.0.0.1:9"}"""


@dataclass
class ToyRail:
    """Implements `mpp_gateway.rails.base.Rail`. `settle_as` may be an outcome or `raise`."""

    name: str = "toy"
    kind: str = "toy"
    capabilities: Capabilities = CAPABILITIES
    verify_refuses: bool = False
    settle_as: str = "settled"
    look_up_as: Settlement = Settlement.UNKNOWN
    spendable_minor: int | None = 10**9
    hold_verify: bool = False
    hold_settle: bool = False
    settle_s: float = 0
    """How long settling takes, in real time."""
    verified: list[str] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    amounts: list[int] = field(default_factory=list)
    closed: bool = False
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def build(self, name: str, *_: Any, **__: Any) -> "ToyRail":
        """Return itself: the `build_rail` of a Runtime."""
        self.name = name
        return self

    def let_go(self) -> None:
        """Release whatever hangs; call it on the proxy's loop."""
        self.released.set()

    def offer(self, price: Amount, recipient: str | None, description: str | None) -> Offer:
        return Offer(self.name, "toy", "charge", price, {}, "e30", description)

    def challenge(self, offer: Offer, binding: Binding, now_s: int, entropy: bytes) -> Headers:
        return (("WWW-Authenticate", f'Toy amount="{offer.amount.minor}"'),)

    def read(
        self, head: RequestHead, offers: Sequence[Offer], binding: Binding, now_s: int
    ) -> Presented | None:
        keys = [v for v in head.get_all("authorization") if v.startswith(PREFIX)]
        if not keys:
            return None
        if len(keys) > 1:
            raise MalformedCredential("Send one toy key.")
        (offer,) = offers
        proof = keys[0].removeprefix("Bearer ")
        return Presented(
            self.name, offer, proof, f"purse-of-{proof}", "till", offer.amount.minor, FOREVER_S
        )

    async def ready(self, now_s: int) -> None:
        pass

    async def verify(self, presented: Presented, now_s: int) -> Verified:
        self.verified.append(presented.proof_id)
        if self.hold_verify:
            await self.released.wait()
        if self.verify_refuses:
            raise VerificationFailed("This toy is broken.")
        return Verified(self.spendable_minor)

    async def settle(self, presented: Presented, amount_minor: int, now_s: int) -> Outcome:
        self.settled.append(presented.proof_id)
        self.amounts.append(amount_minor)
        if self.hold_settle:
            await self.released.wait()
        if self.settle_s:
            await asyncio.sleep(self.settle_s)
        self.answered.append(presented.proof_id)
        match self.settle_as:
            case "raise":
                raise RuntimeError("the toy box is on fire")
            case "unknown":
                return Outcome(Settlement.UNKNOWN)
            case "refused":
                return Outcome(Settlement.REFUSED, detail="no")
        return Outcome(
            Settlement.SETTLED,
            f"ref-{presented.proof_id}",
            (("Payment-Receipt", RECEIPT),),
            change_minor=presented.amount_minor - amount_minor,
        )

    async def look_up(self, record: PaymentRecord, now_s: int) -> Outcome:
        return Outcome(self.look_up_as, headers=(("Payment-Receipt", RECEIPT),))

    @property
    def withheld_for(self) -> str:
        return ""

    async def self_check(self) -> None:
        pass

    async def maintain(self, now_s: int) -> int:
        return 0

    async def close(self) -> None:
        self.closed = True
