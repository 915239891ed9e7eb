"""What a buyer pays with on one rail: offers are read, compared with what is known, and signed for.

`cli/` pays with these today; whatever else buys for somebody needs nothing more of a rail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mpp_gateway.protocol.ceiling import Ceiling
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.money import format_minor
from mpp_gateway.protocol.timestamps import parse_rfc3339


class PaymentDeclined(Exception):
    """The challenge asks for something that this wallet was not told to pay, or cannot pay."""


class NotAnswered(Exception):
    """The payment network was asked what became of a payment, and gave no answer."""


@dataclass(frozen=True, slots=True)
class Deal:
    """A challenge that a wallet knows how to read, and its price for people."""

    challenge: Challenge
    amount_minor: int
    decimals: int
    """Of the token or currency: as it is known here, or as the seller says until it is checked."""
    unit: str | None
    """What one whole unit is known here to be worth, at par: `usd`. The seller's word is no proof
    of that."""
    terms: Any
    """What the wallet that has read it signs."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """What else there is to know, for people and programs."""
    chain_id: int | None = None

    @property
    def price(self) -> str:
        """The price in whole units of the token or currency."""
        return format_minor(self.amount_minor, self.decimals)

    def is_within(self, limit: Ceiling) -> bool:
        """Tell whether the price is not above a limit, in its unit if it has one.

        Compared exactly: rounded up to the token's last decimal, a limit would allow more.
        """
        at_par = () if self.unit is None else (self.unit,)
        return limit.covers(self.amount_minor, self.decimals, at_par, {})

    def describe(self) -> dict[str, Any]:
        """Return what would be paid, for people and programs."""
        return {
            "price": self.price,
            "method": self.challenge.method,
            **self.shown,
            "realm": self.challenge.realm,
            "expires": self.challenge.expires,
        }


class Wallet(Protocol):
    """One way to pay. Nothing moves by it: a credential is good once a seller is shown it."""

    @property
    def method(self) -> str:
        """The payment method whose challenges it reads."""
        ...

    @property
    def can_sign(self) -> bool:
        """Whether it has a key or a token; without, it reads and shows offers only."""
        ...

    def read(self, challenge: Challenge) -> Deal | None:
        """Return what a challenge asks for; None if it is for no wallet of this kind."""
        ...

    async def check(self, deal: Deal) -> None:
        """Return if what the seller says of chain and token is so, and can be paid at all.

        Errors: `PaymentDeclined`.
        """
        ...

    async def sign(self, deal: Deal, now_s: int) -> Credential:
        """Return the credential that pays a deal; whether it is too dear is the caller's to know.

        Errors: `PaymentDeclined`; then nothing was given away.
        """
        ...

    async def is_made(self, credential: Credential) -> bool | None:
        """Ask the payment network whether a payment was made; None where it cannot be asked.

        Errors: `NotAnswered`.
        """
        ...


def check_open(challenge: Challenge, now_s: int) -> int | None:
    """Return when a challenge ends, in unix seconds; None: never. Errors: `PaymentDeclined`."""
    if challenge.expires is None:
        return None
    expires_s = parse_rfc3339(challenge.expires)
    if expires_s <= now_s:
        raise PaymentDeclined("the challenge has expired")
    return expires_s
