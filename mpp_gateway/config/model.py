"""The configuration as the rest of the gateway sees it: resolved, frozen, nothing left to look up.

Every default, preset and override is already applied. Secrets are `SecretStr`, so that no `repr`,
log line or traceback shows one; `Service.secret_headers` is the one place that opens them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import SecretStr

from mpp_gateway.config.methods import Method
from mpp_gateway.errors import Mistake
from mpp_gateway.protocol.cors import Cors
from mpp_gateway.protocol.money import Asset

HIDDEN = "a value (not shown)"
"""Stands for what is secret, or came from the environment, wherever people look."""
type Hook = Callable[..., Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a request may take, in seconds."""

    connect_s: float = 5.0
    first_byte_s: float = 60.0
    idle_s: float = 300.0
    settle_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken of a caller before it has paid."""

    request_body_bytes: int = 1_048_576
    unpaid_bodies: int = 64
    head_bytes: int = 131_072
    head_s: float = 10.0
    unpaid_per_minute: int = 1200
    unpaid_bodies_per_client: int = 8
    keep_alive_s: float = 120.0
    unread_s: float = 60.0
    http2_control_frames: int = 200


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What is kept of an answer that was paid for, and for how long; 0 seconds: nothing."""

    keep_s: int = 86_400
    answer_bytes: int = 1_048_576
    total_bytes: int = 1_073_741_824


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """Where an upstream is. `path` is its prefix byte for byte, without the last slash."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str = ""
    is_hidden: bool = field(default=False, compare=False)
    """It came from the environment: parts of it may be secret, and none is shown."""

    @property
    def authority(self) -> str:
        """The value of the `Host` field: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return HIDDEN if self.is_hidden else f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class SqliteStore:
    """The ledger in one file, for one machine."""

    path: Path


@dataclass(frozen=True, slots=True)
class PostgresStore:
    """The ledger at a PostgreSQL server, for many machines. The URL may have a password in it."""

    url: SecretStr


type Store = SqliteStore | PostgresStore


@dataclass(frozen=True, slots=True)
class Listen:
    """The address and port the gateway accepts connections on; port 0 lets the system choose."""

    host: str = "127.0.0.1"
    port: int = 4402


@dataclass(frozen=True, slots=True)
class Tls:
    """The PEM files of the listener's certificate chain and private key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Price:
    """What one call costs with one method: integer minor units of the method's asset."""

    method_name: str
    intent: Literal["charge"]
    amount_minor: int
    asset: Asset
    recipient: str | None = None
    """Overrides the recipient of the method; None keeps it."""


@dataclass(frozen=True, slots=True)
class FreeAllowance:
    """What each client has without paying, in a period; `scope` names what is counted together."""

    count: int
    per: Literal["minute", "hour", "day"]
    total: int
    scope: str

    @property
    def per_s(self) -> int:
        """The length of the period."""
        return {"minute": 60, "hour": 3600, "day": 86_400}[self.per]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of a service's `routes`, with all that it inherits."""

    key: str
    method: str | None
    pattern: str
    free: bool
    prices: tuple[Price, ...] = ()
    upto: bool = False
    """The price is the most: the upstream says what was used, for buyers who can pay so."""
    settle: Literal["on_success", "before"] = "on_success"
    on_failure: Literal["credit", "refund"] | None = None
    """What a call becomes that was paid for and not delivered; None: what its rail does."""
    digest: bool = False
    free_calls: FreeAllowance | None = None
    title: str | None = None
    description: str | None = None
    docs_llms_url: str | None = None
    timeouts: Timeouts = Timeouts()
    body_limit_bytes: int = 1_048_576
    charge_on: frozenset[int] = frozenset()
    options: Mapping[str, Any] = field(default=NOTHING, hash=False, repr=False)
    injected: tuple[tuple[str, SecretStr], ...] = field(default=(), repr=False)
    """Fields set on the upstream's request; `Service.secret_headers` gives their clear values."""

    @property
    def waits_s(self) -> float:
        """How long the head of the upstream's answer may take."""
        return self.timeouts.connect_s + self.timeouts.first_byte_s

    def is_delivered(self, status: int) -> bool:
        """Tell whether an upstream answer with this final status is what the buyer paid for."""
        return 200 <= status < 300 or status in self.charge_on


@dataclass(frozen=True, slots=True)
class Service:
    """One upstream API, mounted at `/{id}`."""

    id: str
    base_url: BaseUrl
    routes: tuple[Route, ...]
    preset: str | None = None
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    docs_llms_url: str | None = None
    strip_headers: frozenset[str] = frozenset()
    """Lower-case names that a client may not send upstream: they would choose the account that is
    billed, or stand beside a secret of ours."""
    requires_auth: bool = False
    """The upstream knows its callers itself: the client's `Authorization` is for it."""
    rewrite_request: Hook | None = None
    rewrite_response: Hook | None = None

    def secret_headers(self, route: Route) -> tuple[tuple[str, str], ...]:
        """Return the fields to set on a request that is about to leave for this upstream.

        Clear text: write it to the socket's copy of the request and nowhere else.
        """
        return tuple((name, value.get_secret_value()) for name, value in route.injected)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A whole configuration file, checked."""

    file: str
    realm: str
    secret_keys: tuple[SecretStr, ...]
    """Sign challenges with the first, verify with all."""
    services: Mapping[str, Service]
    methods: Mapping[str, Method]
    title: str | None = None
    description: str | None = None
    public_url: str | None = None
    """Without a trailing slash."""
    base_path: str = ""
    listen: Listen = Listen()
    tls: Tls | None = None
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    allow_insecure: bool = False
    store: Store = SqliteStore(Path("gateway.db"))
    currency: str = "usd"
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    idempotency: Idempotency = Idempotency()
    cors: Cors | None = None
    strict_pricing: bool = False
    """Whether free routes that are not named exactly let nobody through."""
    payment_page: bool = True
    """Whether who asks for HTML gets a 402 as a page to pay on."""
    challenge_ttl_s: int = 300
    credit_s: int = 2_592_000
    categories: tuple[str, ...] = ()
    docs_llms_url: str | None = None
    warnings: tuple[Mistake, ...] = ()
    """What works but may not be meant; `check` prints them."""

    @property
    def origin(self) -> str:
        """What clients put before the gateway's paths, as far as the file tells.

        A `public_url` may name the base path already, as in `https://api.example.com/payments`.
        """
        if self.public_url is None:
            host = f"[{self.listen.host}]" if ":" in self.listen.host else self.listen.host
            return f"{'http' if self.tls is None else 'https'}://{host}:{self.listen.port}"
        if self.base_path and urlsplit(self.public_url).path.endswith(self.base_path):
            return self.public_url.removesuffix(self.base_path)
        return self.public_url
