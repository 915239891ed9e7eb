"""What `mpp-gateway pay` asks of a seller, with payment and without: one call, sent once."""

import argparse
import asyncio
import contextlib
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mpp_gateway.cli.exits import NOT_PAID, USAGE
from mpp_gateway.cli.kept import Payment, field_of, origin_of
from mpp_gateway.cli.output import CommandFailed
from mpp_gateway.config.values import is_loopback
from mpp_gateway.protocol.ceiling import FIELD, Ceiling
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import BadRequest

TIMEOUT_S = 120
# None of its own for the whole: a paid answer may take as long as bytes go on coming.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_S)
CREDENTIAL_FIELDS = frozenset({"authorization", "payment-authorization"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked of the seller, with payment and without."""

    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]

    @property
    def has_key(self) -> bool:
        """Whether the caller sends an `Idempotency-Key` of its own."""
        return any(name.lower() == "idempotency-key" for name in self.headers)

    def payment(self, credential: Credential, key: str | None) -> Payment:
        """Return how a credential is presented with this call: under `key`, or a random one."""
        own = None if self.has_key else key or secrets.token_hex(16)
        return Payment(credential, origin_of(self.url), own)

    def check_field(self, challenge: Challenge) -> None:
        """Refuse a payment in a field that is none for payments, or that `--header` has taken."""
        field = field_of(challenge)
        if field.lower() not in CREDENTIAL_FIELDS:
            message = f"the seller wants the payment in the field {field!r}; nothing was paid"
            raise CommandFailed(message, NOT_PAID)
        if any(name.lower() == field.lower() for name in self.headers):
            message = f"--header {field}: the payment goes in that field; nothing was paid"
            raise CommandFailed(message, NOT_PAID)

    def check_realm(self, challenge: Challenge) -> None:
        """Refuse to prove who asks for the sake of another seller's challenge.

        Such a proof costs nothing to sign. Whoever passes a foreign challenge on would have one
        that is good there, in the name of this key.
        """
        host = (URL(self.url).raw_host or "").lower()
        realm = challenge.realm.lower()
        if is_loopback(host) or host == realm or host.endswith(f".{realm}"):
            return
        message = f"the price is zero, and the proof would be for {challenge.realm!r}, not {host}"
        raise CommandFailed(f"{message}; nothing was signed", NOT_PAID)

    @contextlib.asynccontextmanager
    async def answer(self, payment: Payment | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send it, and yield the answer once its head is there: that is waited for, in all."""
        middlewares = () if payment is None else (_SendsOnce(),)
        async with aiohttp.ClientSession(timeout=_TIMEOUT, middlewares=middlewares) as session:
            async with asyncio.timeout(TIMEOUT_S):
                response = await session.request(
                    self.method,
                    self.url,
                    data=self.body,
                    headers={**self.headers, **({} if payment is None else payment.fields())},
                    allow_redirects=False,  # a payment goes where it was meant to go
                )
            async with response:
                yield response


class _SendsOnce:
    """Keeps aiohttp from repeating a paid request on its own, as it does for GET.

    The repeat would be refused, at best, and its failure taken for that of the first, which paid.
    """

    def __init__(self) -> None:
        self._has_sent = False

    async def __call__(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self._has_sent:
            raise aiohttp.ServerDisconnectedError
        self._has_sent = True
        return await send(request)


def call_of(options: argparse.Namespace) -> Call:
    """Return the call of the command line; what HTTP has no form for is wrong usage."""
    try:
        parts = urlsplit(options.url)
        is_http = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        (parts.hostname or "").encode("idna")
        URL(options.url).origin()  # what it reads is what is called
    except ValueError:
        is_http = False
    if not is_http:
        raise CommandFailed(f"{options.url!r} is not an http:// or https:// URL", USAGE)
    if parts.username is not None or parts.password is not None:
        # The HTTP client refuses them beside a payment, and only once that is signed.
        message = (
            "the URL has a user and a password: give them as --header 'Authorization: Basic …'"
        )
        raise CommandFailed(message, USAGE)
    body = _body(options.data)
    method = options.request or ("POST" if body is not None else "GET")
    if not _TOKEN.match(method):
        raise CommandFailed(f"--request {method!r} is no HTTP method", USAGE)
    return Call(method, options.url, body, _headers(options.header) | _ceiling(options))


def _ceiling(options: argparse.Namespace) -> dict[str, str]:
    """Tell the seller of `--max`, so that one who knows of such limits refuses at once."""
    if options.max is None:
        return {}
    try:
        Ceiling.of([options.max])
    except BadRequest:
        form = "a plain decimal amount, for example 0.05, or with its unit: '0.05 usd'"
        raise CommandFailed(f"--max {options.max}: not {form}", USAGE) from None
    names = {field.partition(":")[0].strip().lower() for field in options.header}
    return {} if options.dry_run or FIELD.lower() in names else {FIELD: options.max}


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise CommandFailed(f"--data @FILE: {data[1:]}: {error.strerror}", USAGE) from None


def _headers(fields: Sequence[str]) -> dict[str, str]:
    headers = {}
    for field in fields:
        name, _, value = (part.strip() for part in field.partition(":"))
        if not _TOKEN.match(name) or ":" not in field or _CONTROL.search(value):
            raise CommandFailed(f"--header {field!r} is not NAME: VALUE", USAGE)
        headers[name] = value
    return headers
