"""Payment methods: one settings class per kind, found by the kind's name."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from mpp_gateway.config.hooks import find_function
from mpp_gateway.config.method import HASH_HAS_MOVED, MethodSettings
from mpp_gateway.config.stripe import StripeMethod
from mpp_gateway.config.tempo import WHOLE_SHARE, TempoMethod, TempoSplit
from mpp_gateway.config.values import (
    CHAIN_ID_MAX,
    GWEI_DECIMALS,
    Address,
    Count,
    Flag,
    Gwei,
    HeaderValue,
    PrivateKey,
    SecretUrl,
    ShortText,
    Strict,
    Unit,
    Url,
    read_address,
    read_url,
    wrong,
)
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol.money import DECIMALS_MAX, Asset, parse_minor
from mpp_gateway.protocol.networks import BY_CHAIN, NETWORKS, KnownToken, known_token

FACILITATORS_MAX = 8
METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")

EURO_TOKENS = frozenset(
    token.symbol for network in NETWORKS.values() for token in network.tokens if token.unit == "eur"
)
USUAL_MAX_FEE_GWEI: Mapping[int, str] = MappingProxyType({8453: "1", 84532: "1"})
"""Ceilings for where none is set, by chain: Base and Base Sepolia ask for a hundredth of this.

Other chains have none: what gas costs there, and what its coin is worth, differ too much.
"""


CredentialType = Literal["permit2", "authorization", "transaction", "hash"]


class EvmToken(Strict):
    """The ERC-20 token that buyers pay with; it must take `transferWithAuthorization`."""

    address: Address = Field(description="Contract address of the token.")
    name: ShortText = Field(
        description="The token's EIP-712 name, exactly as its contract has it, such as `USD Coin`."
    )
    version: ShortText = Field(
        default="1", description='The token\'s EIP-712 version, in quotes, such as `"2"`.'
    )
    decimals: Annotated[Count, Field(ge=0, le=DECIMALS_MAX)] = Field(
        description="How many decimals one unit of the token has (USDC: 6)."
    )


def _token(value: Any, info: ValidationInfo) -> Any:
    """Write a token's symbol out, from the table of networks."""
    if not isinstance(value, str):
        return value
    # Where the chain itself is wrong that is said, and nothing of the token.
    network = BY_CHAIN.get(info.data.get("chain_id", NETWORKS["base"].chain_id))
    known = None if network is None else network.token(value)
    if known is None:
        names = " or ".join(token.symbol for token in network.tokens) if network else ""
        raise wrong(
            f"{names}{', or ' if names else ''}a mapping with `address`, `name`, `decimals`"
        )
    return {
        "address": known.address,
        "name": known.name,
        "version": known.version,
        "decimals": known.decimals,
    }


def _importable(text: str) -> str:
    try:
        find_function(text)
    except ValueError as error:
        raise wrong(str(error)) from None
    return text


class Facilitator(Strict):
    """An x402 facilitator, and how it knows you."""

    url: Url = Field(description="Where it is; `/verify`, `/settle` and `/supported` are below.")
    authorization: HeaderValue | None = Field(
        default=None, description="`Authorization` value for it, if it wants a fixed one. Secret."
    )
    auth_hook: Annotated[str, AfterValidator(_importable)] | None = Field(
        default=None,
        description=(
            "Function that makes the header fields of each request: `package.module:function`."
            " It is given method, host and path."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.authorization is not None and self.auth_hook is not None:
            raise wrong("either `authorization` or `auth_hook`")
        return self


def _listed(value: Any) -> Any:
    """Take a URL for a list of one entry."""
    return ({"url": read_url(value)},) if isinstance(value, str) else value


class EvmSubmit(Strict):
    """Who puts the buyer's authorization on the chain: exactly one of the two."""

    facilitator: (
        Annotated[
            tuple[Facilitator, ...],
            BeforeValidator(_listed),
            Field(min_length=1, max_length=FACILITATORS_MAX),
        ]
        | None
    ) = Field(
        default=None,
        description=(
            "The x402 facilitator that verifies and settles for you: its URL, or a list of several"
            " in the order of preference. Another one is asked when one cannot be used."
        ),
    )
    authorization: HeaderValue | None = Field(
        default=None,
        description="`Authorization` value for the one facilitator, if it wants one. Secret.",
    )
    private_key: PrivateKey | None = Field(
        default=None,
        description="Key of an account of yours that pays the gas; needs `rpc_url`. Secret.",
    )

    max_fee_gwei: Gwei | None = Field(
        default=None,
        description=(
            "Highest price of one unit of gas, in gwei, that `private_key` pays: a decimal string."
            " While the network asks for more, no payment is taken. Default: "
            + ", ".join(f"`{gwei}` on chain {chain}" for chain, gwei in USUAL_MAX_FEE_GWEI.items())
            + "; none on other chains, of which `check` warns."
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.facilitator is None) == (self.private_key is None):
            raise wrong("either `facilitator` or `private_key`")
        if self.private_key is not None and self.authorization is not None:
            raise wrong("`authorization` only beside `facilitator`")
        entries = self.facilitator or ()
        if self.authorization is not None and (
            len(entries) > 1 or entries[0] != Facilitator(url=entries[0].url)
        ):
            raise wrong("`authorization` in the entries of `facilitator`")
        if self.private_key is None and self.max_fee_gwei is not None:
            raise wrong("`max_fee_gwei` only beside `private_key`")
        return self

    @property
    def facilitators(self) -> tuple[Facilitator, ...]:
        """The facilitators, each with its own authorization; none where `private_key` settles."""
        entries = self.facilitator or ()
        if self.authorization is None:
            return entries
        return (entries[0].model_copy(update={"authorization": self.authorization}),)


class EvmMethod(MethodSettings):
    """Tokens on an EVM chain, paid by a signed authorization (EIP-3009): the buyer needs no gas."""

    kind: ClassVar[str] = "evm"

    network: Literal[*NETWORKS] | None = Field(  # type: ignore[valid-type]
        default=None, description="Name of a well-known chain, in place of `chain_id`."
    )
    chain_id: Annotated[Count, Field(ge=1, le=CHAIN_ID_MAX)] = Field(
        description=(
            "EIP-155 id of the chain: 8453 for Base, 84532 for Base Sepolia. Left out beside"
            " `network`."
        )
    )
    rpc_url: SecretUrl | None = Field(
        default=None,
        description=(
            "JSON-RPC endpoint of the chain. Optional with a facilitator; without it balances"
            " cannot be read, so the calls of one payer are settled one at a time. Kept secret,"
            " since such URLs tend to hold an access key."
        ),
    )
    token: Annotated[EvmToken, BeforeValidator(_token)] = Field(
        description=(
            "The token that is paid with. `USDC` will do on every chain that `network` lists, and"
            " `EURC` on Base and Base Sepolia."
        )
    )
    recipient: Address = Field(
        description="Address that receives the money; checked against EIP-55 when in mixed case."
    )
    submit: EvmSubmit = Field(description="Who puts payments on the chain.")
    credential_types: tuple[CredentialType, ...] = Field(
        default=("authorization",),
        min_length=1,
        description=(
            "How buyers may pay, the preferred way first. `authorization`: they sign, and `submit`"
            " moves the money. `permit2`: they sign for Permit2, which may move their tokens, and"
            " `submit.private_key` has it done. `transaction`: they sign a transfer, whose gas they"
            " pay, and the gateway sends it. `hash`: they have sent the transfer, and anybody who"
            " sees it may claim to be its sender. The last two need `rpc_url`."
        ),
    )
    splits: tuple[TempoSplit, ...] = Field(
        default=(),
        max_length=10,
        description=(
            "Others who get a share of every price, in the same transaction. Only `permit2` can do"
            " that, and nothing is refunded then: `credential_types` must be `[permit2]`."
        ),
    )
    contract_wallets: Flag = Field(
        default=False,
        description=(
            "Whether smart contract wallets can pay too (ERC-1271). Their contract is asked through"
            " `rpc_url` what they have signed, so that a forged signature costs a question and a"
            " row in the store; without them it costs neither."
        ),
    )
    confirmations: Annotated[Count, Field(ge=1, le=64)] = Field(
        default=1, description="Blocks after which a payment counts as settled."
    )
    x402: Flag = Field(
        default=False,
        description=(
            "Whether buyers may pay by x402 as well (versions 1 and 2, scheme `exact`): the same"
            " price, token and recipient, in the same 402."
        ),
    )
    x402_permit2: Flag = Field(
        default=False,
        description=(
            "Whether x402 buyers of version 2 may also sign by Permit2, which any token can do."
            " Needs `x402: true`, and a facilitator that settles it."
        ),
    )
    units: tuple[Unit, ...] = Field(
        default=("usd",),
        description=(
            "Units of price that one unit of the token is worth, at par. A price in another unit"
            " cannot be paid with this method. With `token: EURC` the default is `eur`."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_names(cls, data: Any) -> Any:
        """Write out what the name of a network, or of a token, stands for."""
        if not isinstance(data, Mapping):
            return data
        if "units" not in data and str(data.get("token")).upper() in EURO_TOKENS:
            # Left at the default of others, a price in dollars would sell for as many euros.
            data = {**data, "units": ("eur",)}
        if data.get("network") is None:
            return data
        if "chain_id" in data:
            raise wrong("`network` or `chain_id`, not both")
        # A name that is unknown is refused for itself, and not for the want of an id too.
        known = NETWORKS.get(str(data["network"]), NETWORKS["base"])
        return {**data, "chain_id": known.chain_id}

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = self.known_token
        if known is not None and known.decimals != self.token.decimals:
            # Prices would be wrong by powers of ten.
            raise wrong(f"`token.decimals` of {known.decimals}, as {known.symbol} has them")
        if self.submit.private_key is not None and self.rpc_url is None:
            raise wrong("`rpc_url` too, since `submit.private_key` sends transactions through it")
        if len(set(self.credential_types)) != len(self.credential_types):
            raise wrong("each of `credential_types` once")
        if self.x402 and "authorization" not in self.credential_types:
            raise wrong("`authorization` in `credential_types`, which is what x402 buyers sign")
        if self.x402_permit2 and not self.sells_by_use:
            raise wrong("`x402: true`, `rpc_url` and `submit.facilitator` too, for `x402_permit2`")
        if self.rpc_url is None and set(self.credential_types) != {"authorization"}:
            raise wrong("`rpc_url` too, through which transactions are sent and looked for")
        if "permit2" in self.credential_types and self.submit.private_key is None:
            raise wrong("`submit.private_key` too, for which `permit2` payments are signed")
        self._check_splits()
        if self.contract_wallets and self.rpc_url is None:
            raise wrong("`rpc_url` too, through which `contract_wallets` are asked")
        if self.confirmations != 1 and self.rpc_url is None:
            raise wrong("`rpc_url` too, since `confirmations` are counted through it")
        return self

    def _check_splits(self) -> None:
        if self.splits and self.credential_types != ("permit2",):
            raise wrong("`credential_types: [permit2]`, which alone can pay `splits`")
        if sum(split.of_ten_thousand for split in self.splits) >= WHOLE_SHARE:
            raise wrong("`splits` that leave something: less than 100 percent together")
        payees = [parse_address(text) for text in (self.recipient, *self._sharers())]
        if len(set(payees)) != len(payees):
            raise wrong("each recipient once, in `recipient` and `splits` together")

    def _sharers(self) -> tuple[str, ...]:
        return tuple(split.recipient for split in self.splits)

    @property
    def asset(self) -> Asset:
        """The token as an asset, coded as in CAIP-19."""
        code = f"eip155:{self.chain_id}/erc20:{self.token.address.lower()}"
        return Asset(code, self.token.decimals, self.token.name)

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """Chain, token, and what buyers pay with: a challenge names all three."""
        paid_with = f"paid by {', '.join(self.credential_types)}"
        return self.kind, f"chain {self.chain_id}", self.token.address.lower(), paid_with

    @property
    def takes_transfers(self) -> bool:
        """Whether any transfer of the right amount, that its buyer has made, is a payment."""
        return "hash" in self.credential_types

    @property
    def sells_by_use(self) -> bool:
        """Whether x402 buyers with the scheme `upto` may be able to pay."""
        return self.x402 and self.rpc_url is not None and bool(self.submit.facilitators)

    @property
    def known_token(self) -> KnownToken | None:
        """What the table of networks has of the token."""
        return known_token(self.chain_id, parse_address(self.token.address))

    def doubts(self) -> Iterator[str]:
        """Yield what is probably not meant, though it can be done."""
        if self.rpc_url is None:
            yield "without `rpc_url` the calls of one payer are settled one at a time"
        if "hash" in self.credential_types:
            yield "with `hash` whoever sees a buyer's transfer can claim it first; sell cheap calls"
        known = self.known_token
        if known is None:
            if self.x402:
                yield "official x402 clients pay in no token that they do not know, unless told to"
            return
        if (known.name, known.version) != (self.token.name, self.token.version):
            yield (
                f"{known.symbol} on chain {self.chain_id} is known to sign with `token.name`"
                f" {known.name!r} and `token.version` {known.version!r}"
            )
        if known.unit not in self.units and self.units:
            yield f"one {known.symbol} is worth one {known.unit}, which `units` does not say"

    @property
    def max_fee_wei(self) -> int | None:
        """The most that a unit of gas may cost us; None where nothing limits it."""
        gwei = self.submit.max_fee_gwei or USUAL_MAX_FEE_GWEI.get(self.chain_id)
        return None if gwei is None else parse_minor(gwei, GWEI_DECIMALS)

    def settles_first(self, minor: int) -> bool:
        """Tell whether money moves first: it does where buyers send it themselves."""
        return minor > 0 and self.credential_types == ("hash",)

    def sooner(self, minor: int, waits_s: float) -> str:  # noqa: ARG002
        """Return which payments have moved before a route's upstream is asked."""
        return HASH_HAS_MOVED if minor and "hash" in self.credential_types else ""

    def can_refund(self, recipient: str | None) -> bool:
        """Tell whether what `recipient` (None: the method's own) got can be sent back from here."""
        key = self.submit.private_key
        if key is None or self.splits:
            # What others got of it is not ours to send back.
            return False
        holder = address_of(bytes.fromhex(key.get_secret_value().removeprefix("0x")))
        return holder == parse_address(recipient or self.recipient)

    def recipient_from(self, text: str) -> str:
        """Return another recipient for this method; ValueError says what is expected instead."""
        address = read_address(text)
        if address in self._sharers():
            raise ValueError("a recipient that is not in `splits` too")
        return address

    def urls(self) -> Mapping[str, str]:
        """Return the clear URLs that the method calls, by their path in the settings."""
        urls = {}
        if self.rpc_url is not None:
            urls["rpc_url"] = self.rpc_url.get_secret_value()
        entries = self.submit.facilitators
        for place, entry in enumerate(entries):
            where = f".{place}.url" if len(entries) > 1 else ""
            urls[f"submit.facilitator{where}"] = entry.url
        return urls


type Method = EvmMethod | StripeMethod | TempoMethod
"""The settings of a payment method, of whatever kind."""

KINDS: Mapping[str, type[Method]] = MappingProxyType(
    {model.kind: model for model in (EvmMethod, StripeMethod, TempoMethod)}
)
