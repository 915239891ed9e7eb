"""What a configuration file may say, key by key. The reference page is made from this module.

These are the keys as they are written; `config.model` is what they mean once everything is
resolved. Methods, services and routes are maps that are checked entry by entry, so that a mistake
in one hides none in another.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from mpp_gateway.config.values import (
    BasePath,
    BaseUnits,
    Count,
    Decimal,
    Flag,
    HeaderName,
    HeaderValue,
    Network,
    Origin,
    PlainUrl,
    Seconds,
    ShortText,
    SigningKey,
    Strict,
    Text,
    Unit,
    Url,
    one_or_more,
    wrong,
)

BODY_BYTES_MAX = 2**30
STATUS_MIN, STATUS_MAX = 300, 599
Bytes = Annotated[Count, Field(ge=0, le=BODY_BYTES_MAX)]
Names = tuple[ShortText, ...]
Status = Annotated[Count, Field(ge=STATUS_MIN, le=STATUS_MAX)]


class TimeoutSettings(Strict):
    """Seconds, at most 3600. Each level overrides single values of the level above."""

    connect_s: Seconds | None = Field(
        default=None, description="Time to open a connection to the upstream. 5 by default."
    )
    first_byte_s: Seconds | None = Field(
        default=None,
        description="Time from the last byte sent to the head of the answer. 60 by default.",
    )
    idle_s: Seconds | None = Field(
        default=None, description="Longest pause within an answer. 300 by default."
    )
    settle_s: Seconds | None = Field(
        default=None, description="Time to settle a payment. 30 by default."
    )


class LimitSettings(Strict):
    """What is taken of a caller before it has paid."""

    request_body_bytes: Bytes = Field(
        default=1_048_576,
        description=(
            "Longest request body that is held while a verdict waits for it (`digest` routes),"
            " unless a route says otherwise. Other bodies stream and have no limit."
        ),
    )
    unpaid_bodies: Annotated[Count, Field(ge=1, le=65_536)] = Field(
        default=64, description="Bodies read at the same time from callers that have not paid."
    )
    unpaid_bodies_per_client: Annotated[Count, Field(ge=1, le=65_536)] = Field(
        default=8, description="How many of `unpaid_bodies` one client may have."
    )
    unpaid_per_minute: Annotated[Count, Field(ge=0, le=1_000_000)] = Field(
        default=1200,
        description=(
            "Requests for priced routes that one client may leave unpaid in a minute, all at once"
            " or one by one; then 429. A call that is paid and delivered does not count, nor does"
            " the 402 before it. `0`: no limit."
        ),
    )
    head_bytes: Annotated[Count, Field(ge=4096, le=2**20)] = Field(
        default=131_072, description="Longest request head: request line and fields."
    )
    head_s: Seconds = Field(default=10.0, description="Seconds to send a request head.")
    keep_alive_s: Seconds = Field(
        default=120.0, description="Seconds for which a connection stays open without a request."
    )
    unread_s: Seconds = Field(
        default=60.0,
        description=(
            "Seconds for which a caller may take nothing of an answer that waits for it. Each 1024"
            " bytes that it takes give one second of them back."
        ),
    )
    http2_control_frames: Annotated[Count, Field(ge=1, le=1_000_000)] = Field(
        default=200,
        description=(
            "HTTP/2 frames that ask for nothing (resets, pings, settings, empty data, anything on a"
            " closed stream) which one connection may send before it is closed. An answered request"
            " gives one back, a second gives ten. Windows and pings are free for each 512 bytes of"
            " an answer. Data in frames of less than 64 bytes on the average counts apart, eight"
            " frames or more as one."
        ),
    )


class IdempotencySettings(Strict):
    """What is kept for a buyer who repeats a paid request under its `Idempotency-Key`."""

    keep_s: Annotated[Count, Field(ge=0, le=2_592_000)] = Field(
        default=86_400, description="Seconds for which an answer is kept. `0`: none is."
    )
    answer_bytes: Annotated[Count, Field(ge=1, le=16_777_216)] = Field(
        default=1_048_576,
        description="Longest answer, and longest request body, for which that is done.",
    )
    total_bytes: Annotated[Count, Field(ge=0)] = Field(
        default=1_073_741_824,
        description="How much the store may hold of them; what is over is not kept.",
    )


class CorsSettings(Strict):
    """Which pages of other sites may call from a browser."""

    origins: Annotated[tuple[Origin, ...], BeforeValidator(one_or_more)] = Field(
        min_length=1,
        description='`"*"` for every page, or origins such as `https://app.example.com`, one or a'
        " list.",
    )
    max_age_s: Annotated[Count, Field(ge=0, le=86_400)] = Field(
        default=600, description="Seconds for which a browser remembers what it was allowed."
    )


class TlsSettings(Strict):
    """PEM files for the listener."""

    cert: Text = Field(
        description="Certificate chain; a relative path starts at the working directory."
    )
    key: Text = Field(description="Private key; a relative path starts at the working directory.")


class HeaderAuth(Strict):
    """A key in a field of its own."""

    name: HeaderName = Field(description="Name of the field.")
    value: HeaderValue = Field(description="Its value. Secret.")


class BasicAuth(Strict):
    """User name and password (RFC 7617)."""

    username: Text = Field(description="User name; no colon.")
    password: SecretStr = Field(description="Password; may be empty. Secret.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if ":" in self.username:
            raise wrong("a user name without a colon")
        return self


class AuthSettings(Strict):
    """How the gateway proves itself to the upstream: exactly one of the three."""

    bearer: HeaderValue | None = Field(
        default=None, description="Sent as `Authorization: Bearer …`. Secret."
    )
    header: HeaderAuth | None = Field(default=None, description="Sent in a field that you name.")
    basic: BasicAuth | None = Field(default=None, description="Sent as `Authorization: Basic …`.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sum(form is not None for form in (self.bearer, self.header, self.basic)) != 1:
            raise wrong("exactly one of `bearer`, `header`, `basic`")
        return self


class OfferSettings(Strict):
    """One way to pay for a route."""

    method: ShortText = Field(description="A name from `methods`.")
    intent: Literal["charge"] = Field(default="charge", description="`charge`: one price a call.")
    amount: Decimal | None = Field(
        default=None, description='Price in `currency`, as a decimal string: `"0.05"`.'
    )
    units: BaseUnits | None = Field(
        default=None, description='Or price in base units of the method: `"50000"`.'
    )
    recipient: ShortText | None = Field(
        default=None, description="Receives the money instead of the method's `recipient`."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.amount is None) == (self.units is None):
            raise wrong("either `amount` or `units`")
        return self


class FreeCallSettings(Strict):
    """Calls of priced routes that each client has without paying. Counted in the store."""

    count: Annotated[Count, Field(ge=0, le=1_000_000)] = Field(
        description="How many of them a client has in each period. `0`: none."
    )
    per: Literal["minute", "hour", "day"] = Field(
        default="day", description="The period, by UTC: a day begins at midnight."
    )
    total: Annotated[Count, Field(ge=1, le=1_000_000_000)] = Field(
        default=100_000, description="How many all clients together have in a period."
    )


class RouteSettings(Strict):
    """A paid route, or a free one when it has no price: `free: true`."""

    free: Literal[True] | None = Field(
        default=None,
        description="`true` for a free route that needs other keys; else write `free` alone.",
    )
    charge: Decimal | None = Field(
        default=None,
        description='Price of one call in `currency`, as a decimal string (`"0.05"`), payable with'
        " every method that takes the currency.",
    )
    units: BaseUnits | None = Field(
        default=None,
        description='Or price in base units (`"50000"`), when one method is in force.',
    )
    upto: Flag | None = Field(
        default=None,
        description="`true` makes the price the most that a call costs: the upstream says in its"
        " field `Settlement-Overrides` what was used, and x402 buyers with the scheme `upto` pay"
        " that. All others pay the price.",
    )
    offers: tuple[OfferSettings, ...] | None = Field(
        default=None, min_length=1, description="Or a list of ways to pay, each with its price."
    )
    methods: Names | None = Field(
        default=None,
        min_length=1,
        description="Narrows the methods that `charge` may be paid with.",
    )
    recipient: ShortText | None = Field(
        default=None, description="Receives the money instead of the method's `recipient`."
    )
    settle: Literal["on_success", "before"] | None = Field(
        default=None,
        description="`on_success` (default): the buyer pays when the upstream answers 2xx."
        " `before`: pays first; for routes with effects that cannot be taken back.",
    )
    on_failure: Literal["credit", "refund"] | None = Field(
        default=None,
        description="What the buyer of a call has, that was paid for and not delivered. `credit`"
        " (default with `evm`): the same credential buys it until `credit_s` have passed. `refund`"
        " (default with `stripe`): its money is sent back; with `evm` for gas, and only if"
        " `submit.private_key` is the key of the `recipient`.",
    )
    digest: Flag | None = Field(
        default=None,
        description="`true` binds the request body to the payment; it is then read first.",
    )
    charge_on: tuple[Status, ...] | None = Field(
        default=None,
        min_length=1,
        description="Status codes besides 2xx that count as delivered, such as `[404]`.",
    )
    body_limit_bytes: Bytes | None = Field(
        default=None,
        description=("Longest body of a `digest` route; overrides `limits.request_body_bytes`."),
    )
    free_calls: FreeCallSettings | None = Field(
        default=None,
        description="Calls of this route that each client has without paying, instead of those of"
        " the service or the root.",
    )
    title: ShortText | None = Field(default=None, description="For the discovery documents.")
    description: Text | None = Field(
        default=None, description="For the discovery documents and the challenge."
    )
    docs_llms_url: Url | None = Field(default=None, description="Documentation for agents.")
    timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="Overrides for this route."
    )
    auth: AuthSettings | None = Field(
        default=None, description="Replaces the service's `auth` or `api_key` on this route."
    )
    headers: Mapping[HeaderName, HeaderValue] = Field(
        default={}, description="Added to the service's `headers`, or instead of the same names."
    )
    options: Mapping[str, Any] | None = Field(
        default=None, description="Anything; handed to the service's hooks."
    )


class ServiceSettings(Strict):
    """One upstream API, mounted at `/{id}`."""

    preset: ShortText | None = Field(
        default=None, description="A known service: address, form of the key, titles of routes."
    )
    base_url: PlainUrl | None = Field(
        default=None,
        description="Where the upstream is; its path is put before the client's. Optional with a"
        " preset.",
    )
    title: ShortText | None = Field(default=None, description="For the discovery documents.")
    description: Text | None = Field(default=None, description="For the discovery documents.")
    categories: Names | None = Field(default=None, description="For the discovery documents.")
    docs_llms_url: Url | None = Field(default=None, description="Documentation for agents.")
    api_key: HeaderValue | None = Field(
        default=None, description="Your key, sent in the form that the preset knows. Secret."
    )
    auth: AuthSettings | None = Field(
        default=None, description="How to authenticate to the upstream, without a preset."
    )
    requires_auth: Flag = Field(
        default=False,
        description="`true`: the upstream authenticates callers itself. The client's"
        " `Authorization` goes to it, and payments come in `Payment-Authorization`.",
    )
    headers: Mapping[HeaderName, HeaderValue] = Field(
        default={}, description="Fields set on every request to the upstream. Values are secret."
    )
    recipient: ShortText | None = Field(
        default=None, description="Receives the money instead of the method's `recipient`."
    )
    methods: Names | None = Field(
        default=None, min_length=1, description="Narrows the methods of all routes."
    )
    free_calls: FreeCallSettings | None = Field(
        default=None,
        description="Calls of this service that each client has without paying: of all its routes"
        " together, but those that say something else.",
    )
    timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="Overrides for this service."
    )
    rewrite_request: Text | None = Field(
        default=None,
        description="`package.module:function` that may change the request to the upstream.",
    )
    rewrite_response: Text | None = Field(
        default=None,
        description="`package.module:function` that may change the upstream's answer.",
    )
    routes: Mapping[str, Any] = Field(
        default={},
        description='`"METHOD /pattern"` or `"/pattern"` to `free` or a route; the first match'
        " wins. `:name` matches one segment, a `*` at the end the rest.",
    )


class RootSettings(Strict):
    """The whole file."""

    title: ShortText | None = Field(default=None, description="For the discovery documents.")
    description: Text | None = Field(default=None, description="For the discovery documents.")
    realm: ShortText | None = Field(
        default=None,
        description="Name in every challenge: the host name that clients see. By default the host"
        " of `public_url`, else of `listen`.",
    )
    public_url: PlainUrl | None = Field(
        default=None, description="Where clients reach the gateway; for absolute links."
    )
    base_path: BasePath = Field(
        default="", description="Prefix of all paths, when mounted under another site: `/payments`."
    )
    secret_key: Annotated[tuple[SigningKey, ...], BeforeValidator(one_or_more)] = Field(
        default=(),
        description="Signs challenges: at least 32 bytes. A list rotates: the first signs, all"
        " verify. Required, as one text or a list. Secret.",
    )
    listen: Text = Field(
        default="127.0.0.1:4402", description="`host:port` to listen on; `[::1]:4402` for IPv6."
    )
    tls: TlsSettings | None = Field(default=None, description="Serve HTTPS with these files.")
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        description=(
            "Networks of the front proxies that end TLS before this listener. Naming them says"
            " that clear text here is meant, and that `X-Forwarded-For` from them names the client"
            " for `limits`; no other field of theirs is read."
        ),
    )
    allow_insecure: Flag = Field(
        default=False,
        description="`true` allows clear text on a listener that is not loopback, and `http://`"
        " URLs to other machines.",
    )
    store: Text = Field(
        default="sqlite:///gateway.db",
        description="The ledger's database: `sqlite:///path`, relative to the working directory, or"
        " `postgresql://user@host/database` for several machines (the extra `postgres`)."
        " Secret where it has a password.",
    )
    currency: Unit = Field(default="usd", description="Unit of every bare price.")
    timeouts: TimeoutSettings = Field(
        default=TimeoutSettings(), description="For all services, unless they override it."
    )
    limits: LimitSettings = Field(
        default=LimitSettings(),
        description="What callers may cost before they pay. A client is an IPv4 address or a /64 of"
        " IPv6; this machine itself is not counted.",
    )
    idempotency: IdempotencySettings = Field(
        default=IdempotencySettings(),
        description="A paid request with an `Idempotency-Key` that is sent again, with the same"
        " credential and body, gets the same answer; the upstream is not asked.",
    )
    free_calls: FreeCallSettings | None = Field(
        default=None,
        description="Calls of priced routes that each client has without paying: of all services"
        " together, but those that say something else. A client is what `limits` counts as one.",
    )
    cors: CorsSettings | None = Field(
        default=None,
        description="Lets pages in a browser pay and call. The gateway then answers every preflight"
        " itself, free of charge, and what upstreams say of CORS is replaced. Without it their"
        " words pass as they are, and no page sees a price.",
    )
    strict_pricing: Flag = Field(
        default=False,
        description="`true`: a call without a price is refused unless a free route names it, with"
        " its method and without `*`, and no other route has a price for it. `check` lists the free"
        " routes that are refused so.",
    )
    payment_page: Flag = Field(
        default=True,
        description="Whether a 402 is a page to pay on for who asks for HTML, as browsers do."
        " `false`: everybody gets the problem document.",
    )
    challenge_ttl_s: Annotated[Count, Field(ge=30, le=86_400)] = Field(
        default=300, description="Seconds for which a challenge can be paid."
    )
    credit_s: Annotated[Count, Field(ge=60, le=3_153_600_000)] = Field(
        default=2_592_000,
        description="Seconds for which a call that was paid for and not delivered may be asked for"
        " again with the same credential; 30 days.",
    )
    categories: Names = Field(default=(), description="For the discovery documents.")
    docs_llms_url: Url | None = Field(default=None, description="Documentation for agents.")
    methods: Mapping[str, Any] = Field(
        default={},
        description="Ways to be paid: a name of your choice to its settings. `kind` may be left out"
        " when the name is itself a kind.",
    )
    services: Mapping[str, Any] = Field(
        default={}, description="What is sold: an id to its service, mounted at `/{id}`. Required."
    )
