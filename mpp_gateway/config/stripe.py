"""The settings of a Stripe account: shared payment tokens (SPTs) for charges."""

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mpp_gateway.config import currencies
from mpp_gateway.config.method import MethodSettings
from mpp_gateway.config.values import (
    Count,
    PlainUrl,
    ShortText,
    Strict,
    Unit,
    on_secret,
    wrong,
)
from mpp_gateway.protocol.money import Asset, format_short

API_BASE = "https://api.stripe.com"
STRIPE_VERSION = "2026-07-29.preview"
"""Shared payment tokens are in preview: another version may know them otherwise, or not at all."""

METADATA_MAX = 30
"""Stripe takes 50 keys; the gateway's own are among them."""
METADATA_CHARS_MAX = 500
RESERVED_METADATA = frozenset({"challenge_id", "externalId", "machine_payment"})

_KEY = re.compile(r"(?:sk|rk)_(?:test|live)_[A-Za-z0-9_]{1,250}\Z")
_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,64}\Z")
_NETWORK = re.compile(r"[A-Za-z0-9_]{1,100}\Z")
_CURRENCY = re.compile(r"[a-z]{3}\Z")
_METHOD_TYPE = re.compile(r"[a-z][a-z0-9_]{0,39}\Z")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_VERSION = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}(?:\.[a-z]+)?\Z")
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def _secret(text: str) -> None:
    if not _KEY.match(text):
        raise wrong("a secret or restricted key of Stripe: sk_test_…, sk_live_…, rk_test_…")


def _matching(pattern: re.Pattern[str], expected: str) -> AfterValidator:
    def checked(text: str) -> str:
        if not pattern.match(text):
            raise wrong(expected)
        return text

    return AfterValidator(checked)


def _metadata(given: Mapping[str, str]) -> Mapping[str, str]:
    if len(given) > METADATA_MAX:
        raise wrong(f"at most {METADATA_MAX} keys")
    for key, value in given.items():
        if not _METADATA_KEY.match(key) or len(value) > METADATA_CHARS_MAX:
            raise wrong("keys of up to 40 letters, digits, '_' and '-', values up to 500 long")
        if key.startswith("mpp_") or key in RESERVED_METADATA:
            names = ", ".join(sorted(RESERVED_METADATA))
            raise wrong(f"other keys than those of the protocol: mpp_…, {names}")
    return given


StripeKey = Annotated[SecretStr, on_secret(_secret)]
Account = Annotated[str, _matching(_ACCOUNT, "the id of a connected account: acct_…")]
Metadata = Annotated[Mapping[str, str], AfterValidator(_metadata)]
MinorUnits = Annotated[Count, Field(ge=0, le=currencies.AMOUNT_MINOR_MAX)]


class StripeConnect(Strict):
    """Whose money it is, where that is not the account of `secret_key` (Stripe Connect)."""

    stripe_account: Account | None = Field(
        default=None, description="Charge on this connected account (direct charges): `acct_…`."
    )
    on_behalf_of: Account | None = Field(
        default=None, description="The connected account that the charge is made for."
    )
    application_fee_minor: MinorUnits | None = Field(
        default=None,
        description=(
            "What your platform keeps of each charge, in minor units (cents); needs"
            " `stripe_account` or `transfer_destination`."
        ),
    )
    transfer_destination: Account | None = Field(
        default=None, description="The connected account that the money is sent on to."
    )
    transfer_amount_minor: MinorUnits | None = Field(
        default=None,
        description="How much of it is sent on, in minor units; without it, all but the fee.",
    )
    transfer_group: Annotated[str, _matching(_GROUP, "letters, digits, '_' and '-'")] | None = (
        Field(default=None, description="Names charges and transfers that belong together.")
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.model_fields_set:
            raise wrong("one of the keys of Connect, or no `connect`")
        is_direct, is_sent_on = self.stripe_account is not None, self.transfer_destination
        if is_direct and (is_sent_on or self.on_behalf_of is not None):
            raise wrong("`stripe_account` without `transfer_destination` and `on_behalf_of`")
        if self.application_fee_minor is not None and not (is_direct or is_sent_on):
            raise wrong("`application_fee_minor` only beside a connected account that pays it")
        if self.transfer_amount_minor is not None and not is_sent_on:
            raise wrong("`transfer_amount_minor` only beside `transfer_destination`")
        if self.transfer_amount_minor is not None and self.application_fee_minor is not None:
            raise wrong("either `application_fee_minor` or `transfer_amount_minor`")
        return self


class StripeMethod(MethodSettings):
    """Cards and wallets through Stripe, paid by a shared payment token (SPT) of the buyer's."""

    kind: ClassVar[str] = "stripe"
    chain_id: ClassVar[None] = None
    refunds: ClassVar[bool] = True

    secret_key: StripeKey = Field(
        description="Secret key of your account, or a restricted one. Secret."
    )
    network_id: Annotated[str, _matching(_NETWORK, "a network profile such as profile_123")] = (
        Field(description="Your Stripe profile, for which buyers mint tokens: `profile_…`.")
    )
    currency: Annotated[Unit, _matching(_CURRENCY, "a currency of three letters")] = Field(
        default="usd", description="Currency of the charges, and the unit of price that it takes."
    )
    payment_method_types: tuple[
        Annotated[str, _matching(_METHOD_TYPE, "a payment method type such as card")], ...
    ] = Field(
        default=("card", "link"), min_length=1, description="What buyers may mint tokens from."
    )
    payment_methods: Literal["automatic", "listed"] = Field(
        default="automatic",
        description=(
            "What a charge allows: `automatic` leaves it to your dashboard, without redirects;"
            " `listed` names the `payment_method_types`."
        ),
    )
    capture: Literal["automatic", "manual"] = Field(
        default="automatic",
        description=(
            "`automatic`: the money moves before the upstream is asked, and is refunded when that"
            " fails. `manual`: it is authorized first and captured on a 2xx."
        ),
    )
    external_id: ShortText | None = Field(
        default=None, description="An id of yours that challenges and receipts carry."
    )
    metadata: Metadata = Field(
        default={}, description="Put into challenges, tokens and charges, for you to find them by."
    )
    connect: StripeConnect | None = Field(
        default=None, description="Whose money it is, with Stripe Connect. Never told to buyers."
    )
    api_base: PlainUrl = Field(default=API_BASE, description="Where Stripe's API is.")
    stripe_version: Annotated[str, _matching(_VERSION, "a version such as 2026-07-29.preview")] = (
        Field(default=STRIPE_VERSION, description="Version of Stripe's API that is asked for.")
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.currency in currencies.THREE_DECIMAL:
            raise wrong(f"a `currency` other than {self.currency}, which has three decimals")
        if len(set(self.payment_method_types)) != len(self.payment_method_types):
            raise wrong("each of `payment_method_types` once")
        return self

    @property
    def asset(self) -> Asset:
        """The currency as an asset."""
        return Asset(self.currency, currencies.decimals_of(self.currency))

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of price that is taken at par: the currency itself."""
        return (self.currency,)

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """Profile and currency: challenges say nothing of the account behind them."""
        return self.kind, self.network_id, self.currency

    @property
    def is_live(self) -> bool:
        """Whether it is real money."""
        return "_live_" in self.secret_key.get_secret_value()[:8]

    def settles_first(self, minor: int) -> bool:  # noqa: ARG002
        """Tell whether the money moves before the upstream is asked, whatever the route says."""
        return self.capture == "automatic"

    def withheld(self, minor: int) -> str:
        """Return why a price cannot be offered: it is below Stripe's minimum; else nothing."""
        least = currencies.LEAST_MINOR.get(self.currency, 1)
        if minor >= least:
            return ""
        text = format_short(least, self.asset.decimals)
        return f"Stripe charges no less than {text} {self.currency}"

    def flaw(self, minor: int) -> str:
        """Return what a price must be for Stripe to take it; nothing if it is."""
        if minor > currencies.AMOUNT_MINOR_MAX:
            return f"at most {currencies.AMOUNT_MINOR_MAX} minor units, which is Stripe's maximum"
        if self.currency in currencies.WHOLE_ONLY and minor % 100:
            return f"a whole number of {self.currency}"
        if self.connect is None:
            return ""
        # More than the price cannot be kept or sent on of it.
        for name in ("application_fee_minor", "transfer_amount_minor"):
            part = getattr(self.connect, name)
            if part is not None and part > minor:
                return f"at least {part} minor units, the `connect.{name}` of the method"
        return ""

    def can_refund(self, recipient: str | None) -> bool:  # noqa: ARG002
        """Tell that a charge can be given back: Stripe does that."""
        return True

    def recipient_from(self, text: str) -> str:  # noqa: ARG002
        """Refuse: the account of `secret_key` is paid, or the one under `connect`."""
        raise ValueError("no `recipient` with Stripe: its key says whose account is paid")

    def urls(self) -> Mapping[str, str]:
        """Return the clear URLs that the method calls, by their path in the settings."""
        return {"api_base": self.api_base}
