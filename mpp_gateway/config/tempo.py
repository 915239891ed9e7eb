"""The settings of a token on Tempo."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from mpp_gateway.config.method import HASH_HAS_MOVED, MethodSettings
from mpp_gateway.config.values import (
    CHAIN_ID_MAX,
    Address,
    Count,
    Decimal,
    PrivateKey,
    SecretUrl,
    ShortText,
    Strict,
    Unit,
    read_address,
    wrong,
)
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.protocol.money import Asset, parse_minor

TIP20_DECIMALS = 6
"""Of every TIP-20 token (TIP-20 specification)."""
PERCENT_DECIMALS = 2
USUAL_LIFE_S = 25
"""So long buyers sign for, as mppx does."""
SETTLES_WITHIN_S = 8
"""What is kept free at the end of that to broadcast in."""
WHOLE_SHARE = 10_000
"""A hundred percent, in hundredths of one."""


class TempoSplit(Strict):
    """Somebody who gets a share of every price, in the same transaction."""

    recipient: Address = Field(description="Address that receives the share.")
    percent: Decimal = Field(
        description=(
            "The share in percent, a decimal string with at most two decimals. A share of a price"
            " is rounded down; one of nothing is left out."
        )
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            share = parse_minor(self.percent, PERCENT_DECIMALS)
        except ValueError:
            share = 0
        if not 0 < share < WHOLE_SHARE:
            raise wrong('a `percent` above 0 and below 100 with two decimals at most, as "2.5"')
        return self

    @property
    def of_ten_thousand(self) -> int:
        """The share in hundredths of a percent."""
        return parse_minor(self.percent, PERCENT_DECIMALS)


class TempoSponsor(Strict):
    """An account of yours that pays the fees of buyers' transactions, within limits."""

    private_key: PrivateKey = Field(description="Key of the account. Secret.")
    fee_token: Address | None = Field(
        default=None, description="TIP-20 token that fees are paid in; `currency` by default."
    )
    max_fee: Decimal = Field(
        default="0.05", description="The most that the fee of one transaction may be, in dollars."
    )
    max_in_flight: Decimal = Field(
        default="1.00",
        description=(
            "The most that all fees together may come to that are sent and in no block yet, in each"
            " process."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            one = parse_minor(self.max_fee, TIP20_DECIMALS)
            all_of_them = parse_minor(self.max_in_flight, TIP20_DECIMALS)
        except ValueError:
            raise wrong(f"amounts with at most {TIP20_DECIMALS} decimals") from None
        if not 0 < one <= all_of_them:
            raise wrong("`max_fee` above 0, and `max_in_flight` no less than that")
        return self


class TempoMethod(MethodSettings):
    """Stablecoins (TIP-20 tokens) on Tempo, paid by a transaction that the buyer signs.

    Buyers pay the fee of their transaction themselves, unless there is a `sponsor`. With a price of
    `"0"` a buyer proves who it is and pays nothing.
    """

    kind: ClassVar[str] = "tempo"
    takes_zero: ClassVar[bool] = True
    """A price of zero is met by a proof that pays nothing."""

    chain_id: Annotated[Count, Field(ge=1, le=CHAIN_ID_MAX)] = Field(
        description="EIP-155 id of the chain: 4217 for Tempo, 42431 for its test network Moderato."
    )
    rpc_url: SecretUrl = Field(
        description=(
            "JSON-RPC endpoint of the chain. Kept secret, since such URLs tend to hold an access"
            " key."
        )
    )
    currency: Address = Field(
        description=(
            "Address of the TIP-20 token that is paid with:"
            " `0x20c0000000000000000000000000000000000000` is pathUSD."
        )
    )
    symbol: ShortText = Field(default="USD", description="What people call the token.")
    recipient: Address = Field(
        description="Address that receives the money; checked against EIP-55 when in mixed case."
    )
    sponsor: TempoSponsor | None = Field(
        default=None,
        description="Who pays the fees of buyers' transactions; by default they do it themselves.",
    )
    modes: tuple[Literal["pull", "push"], ...] = Field(
        default=("pull", "push"),
        min_length=1,
        max_length=2,
        description=(
            "How buyers may pay: `pull` is a signed transaction that the gateway broadcasts, `push`"
            " the hash of one that the buyer has sent itself. With a `sponsor` it is `pull` alone."
        ),
    )
    splits: tuple[TempoSplit, ...] = Field(
        default=(),
        max_length=10,
        description="Others who get a share of every price, in the same transaction.",
    )
    units: tuple[Unit, ...] = Field(
        default=("usd",),
        description=(
            "Units of price that one unit of the token is worth, at par. A price in another unit"
            " cannot be paid with this method."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _pull_alone(cls, data: Any) -> Any:
        """With a sponsor there is nothing for a buyer to send."""
        if isinstance(data, Mapping) and data.get("sponsor") and "modes" not in data:
            return {**data, "modes": ("pull",)}
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sponsor is not None and self.modes != ("pull",):
            raise wrong("`modes: [pull]` beside `sponsor`: who pays a fee sends the transaction")
        if len(set(self.modes)) != len(self.modes):
            raise wrong("each of `modes` once")
        if sum(split.of_ten_thousand for split in self.splits) >= WHOLE_SHARE:
            raise wrong("`splits` that leave something: less than 100 percent together")
        payees = [parse_address(text) for text in (self.recipient, *self._sharers())]
        if len(set(payees)) != len(payees):
            raise wrong("each recipient once, in `recipient` and `splits` together")
        return self

    def _sharers(self) -> tuple[str, ...]:
        return tuple(split.recipient for split in self.splits)

    @property
    def asset(self) -> Asset:
        """The token as an asset, coded as in CAIP-19."""
        code = f"eip155:{self.chain_id}/erc20:{self.currency.lower()}"
        return Asset(code, TIP20_DECIMALS, self.symbol)

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """Chain and token."""
        return self.kind, f"chain {self.chain_id}", self.currency.lower()

    def settles_first(self, minor: int) -> bool:
        """Tell that the money moves first: with shares, and where buyers send it themselves."""
        shares = (minor * split.of_ten_thousand // WHOLE_SHARE for split in self.splits)
        return minor > 0 and ("pull" not in self.modes or any(shares))

    def sooner(self, minor: int, waits_s: float) -> str:
        """Return which payments move before the upstream is asked: it depends on the buyer."""
        if minor == 0:
            return ""
        sent = [HASH_HAS_MOVED] if "push" in self.modes else []
        brief = ["a transaction that ends before the upstream's time is up"]
        return ", or ".join(sent + (brief if waits_s + SETTLES_WITHIN_S > USUAL_LIFE_S else []))

    def can_refund(self, recipient: str | None) -> bool:  # noqa: ARG002
        """False: the key of the recipient is not here."""
        return False

    def recipient_from(self, text: str) -> str:
        """Return another recipient for this method; ValueError says what is expected instead."""
        address = read_address(text)
        if address in self._sharers():
            raise ValueError("a recipient that is not in `splits` too")
        return address

    def urls(self) -> Mapping[str, str]:
        """Return the clear URLs that the method calls, by their path in the settings."""
        return {"rpc_url": self.rpc_url.get_secret_value()}
