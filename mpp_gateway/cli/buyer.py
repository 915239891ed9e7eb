"""`mpp-gateway pay`: one paid call, with every number shown before anything is signed."""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from mpp_gateway.cli import outcome
from mpp_gateway.cli.exits import FAILED, NOT_PAID, OK, USAGE
from mpp_gateway.cli.kept import (
    Payment,
    check_clear_text,
    field_of,
    kept_credential,
    kept_key,
    origin_of,
)
from mpp_gateway.cli.outcome import PAYMENT_REQUIRED, PROBLEM
from mpp_gateway.cli.output import (
    BodyPrinter,
    CommandFailed,
    emit_json,
    for_people,
    plain,
    say,
    styled,
)
from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.secp256k1 import ORDER
from mpp_gateway.protocol.ceiling import FIELD
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.money import DECIMALS_MAX, format_minor, parse_minor
from mpp_gateway.protocol.networks import known_token
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.evm.payer import PaymentDeclined, Purse
from mpp_gateway.rails.evm.payer import pay as sign_payment
from mpp_gateway.rails.evm.request import Terms
from mpp_gateway.rails.evm.tokens import (
    TokenUnknown,
    decimals_from_chain,
    domain_from_chain,
    is_spent,
    known_domain,
)

KEY_VARIABLE = "MPP_PRIVATE_KEY"
MAX_DOLLARS = "0.10"
TIMEOUT_S = 120
# None of its own for the whole: a paid answer may take as long as bytes go on coming.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_S)
CHUNK = 16 * 1024
PROBLEM_BYTES_MAX = 64 * 1024
CREDENTIAL_FIELDS = frozenset({"authorization", "payment-authorization"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclasses.dataclass(frozen=True, slots=True)
class Deal:
    """A challenge that this buyer knows how to pay, and its price for people."""

    challenge: Challenge
    terms: Terms
    decimals: int

    @property
    def price(self) -> str:
        """The price in whole units of the token."""
        return format_minor(self.terms.amount_minor, self.decimals)

    def describe(self) -> dict[str, Any]:
        """Return what would be paid, for people and programs."""
        return {
            "price": self.price,
            "token": checksum(self.terms.token),
            "chain_id": self.terms.chain_id,
            "recipient": checksum(self.terms.recipient),
            "realm": self.challenge.realm,
            "expires": self.challenge.expires,
        }


@dataclasses.dataclass(frozen=True, slots=True)
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


async def pay(options: argparse.Namespace) -> int:
    """Call the URL, pay what it asks if that is within `--max`, print answer and receipt."""
    call = _call(options)
    presented = None if options.dry_run else kept_credential(os.environ, call.url)
    if presented is not None:
        check_clear_text(call.url, USAGE, is_allowed=options.insecure)
        call.check_field(presented.challenge)
        payment = call.payment(presented, kept_key(os.environ))
        return await _present(call, payment, options.rpc_url, is_new=False)
    try:
        async with call.answer() as response:
            if response.status != PAYMENT_REQUIRED:
                body = (
                    await _start_of(response) if outcome.may_be_too_dear(response.status) else b""
                )
                if options.max is not None and (prices := outcome.too_dear(body)):
                    message = f"the price {prices} is above --max {options.max}; nothing was paid"
                    raise CommandFailed(message, NOT_PAID)
                await _show(response, body)
                return OK if response.status < 400 else FAILED
            deal = _choose(response.headers.getall("WWW-Authenticate", []), options.chain)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandFailed(f"{call.url}: {_words(error)}") from None
    await _check_decimals(deal, options)
    _show_deal(deal, options)
    if options.dry_run:
        return OK
    check_clear_text(call.url, NOT_PAID, is_allowed=options.insecure)
    call.check_field(deal.challenge)
    payment = call.payment(await _sign(deal, options), None)
    return await _present(call, payment, options.rpc_url, is_new=True)


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


async def _present(call: Call, payment: Payment, rpc_url: str | None, *, is_new: bool) -> int:
    """Ask with the payment; however that ends, say what became of the money."""
    lost = outcome.UNKNOWN
    try:
        async with call.answer(payment) as response:
            has_receipt = "Payment-Receipt" in response.headers
            lost = outcome.BROKEN if has_receipt else lost
            body = await _show(response)
        if has_receipt:
            return OK if response.status < 400 else FAILED
        found = outcome.judge(response.status, response.content_type, body, is_new=is_new)
        if found is None or found.is_claim:
            found = outcome.weigh(found, is_made=await _is_made(payment.credential, rpc_url))
            found = found if response.status >= 400 else found.delivered()
    except aiohttp.ClientConnectorError as error:
        # On a connection of its own: nobody has seen this payment. An old one may be spent.
        if is_new:
            raise CommandFailed(f"{call.url}: {_words(error)}; nothing was paid") from None
        say(lost.text(payment.variables()))
        raise CommandFailed(f"{call.url}: {_words(error)}", lost.code) from None
    except (asyncio.CancelledError, BrokenPipeError):
        say(lost.text(payment.variables()))
        raise
    except Exception as error:  # noqa: BLE001 - it ends the command
        # Whatever it is: without the credential on the screen, what was paid would be gone.
        say(lost.text(payment.variables()))
        what = _words(error)
        if lost is outcome.BROKEN:
            what = f"the answer broke off; it was paid for, as the receipt says ({what})"
        raise CommandFailed(f"{call.url}: {what}", lost.code) from None
    if not for_people():
        say()  # stdout and stderr may be one file, and the answer ends without a new line
    say(found.text(payment.variables()))
    return found.code


async def _is_made(credential: Credential, rpc_url: str | None) -> bool | None:
    """Ask the chain whether a payment was made; None where it cannot be asked."""
    if rpc_url is None:
        return None
    try:
        terms = Terms.read(credential.challenge.request_object)
        payer = parse_address(str(credential.payload["from"]))
        nonce = bytes.fromhex(str(credential.payload["nonce"]).removeprefix("0x"))
        return await is_spent(rpc_url, terms.token, payer, nonce)
    except (KeyError, ValueError, TokenUnknown) as error:
        say(f"{rpc_url}: {_words(error)}")
        return None


def _words(error: Exception) -> str:
    return plain(str(error)) or type(error).__name__


def _choose(fields: Sequence[str], chain_id: int | None) -> Deal:
    try:
        challenges = Challenge.parse_all(fields)
    except ParseError as error:
        raise CommandFailed(f"the 402 cannot be read: {error}") from None
    for challenge in challenges:
        if (challenge.method, challenge.intent) != ("evm", "charge"):
            continue
        request = challenge.request_object
        try:
            terms = Terms.read(request)
        except ValueError:
            continue
        if chain_id is not None and terms.chain_id != chain_id:
            continue
        decimals = request["methodDetails"].get("decimals", 6)
        if isinstance(decimals, int) and 0 <= decimals <= 36:
            return Deal(challenge, terms, decimals)
    offered = plain(", ".join(f"{c.method}/{c.intent}" for c in challenges)) or "nothing"
    where = f" on chain {chain_id}" if chain_id else ""
    raise CommandFailed(f"no offer that this command can pay{where} (offered: {offered})", NOT_PAID)


async def _check_decimals(deal: Deal, options: argparse.Namespace) -> None:
    """Refuse a challenge that counts the token in other units than the token does itself."""
    terms = deal.terms
    if (known := known_token(terms.chain_id, terms.token)) is not None:
        decimals = known.decimals
    elif options.rpc_url:
        try:
            decimals = await decimals_from_chain(options.rpc_url, terms.token)
        except TokenUnknown as error:
            raise CommandFailed(f"{error}; nothing was paid", NOT_PAID) from None
    else:
        return  # only shown: what cannot be asked is not paid either
    if decimals != deal.decimals:
        # `--max` is in whole units: with decimals of the seller's choice any price is below it.
        raise CommandFailed(
            f"the seller counts {deal.decimals} decimals, the token has {decimals};"
            " nothing was paid",
            NOT_PAID,
        )


def _limit_minor(deal: Deal, options: argparse.Namespace) -> int:
    """Return the most to pay, in minor units of the token that is asked for."""
    known = known_token(deal.terms.chain_id, deal.terms.token)
    is_dollar = known is not None and known.unit == "usd"
    if options.max is None and not is_dollar and not options.dry_run:
        # The token is the seller's choice: a tenth of some tokens is worth a house.
        raise CommandFailed(
            "this token is none of the dollars that are known here: name the most to pay of it"
            " with --max; nothing was paid",
            NOT_PAID,
        )
    text = MAX_DOLLARS if options.max is None else options.max
    try:
        return parse_minor(text, deal.decimals)
    except ValueError as error:
        raise CommandFailed(f"--max {text}: {error}", USAGE) from None


def _show_deal(deal: Deal, options: argparse.Namespace) -> None:
    if options.dry_run and not for_people():
        emit_json(deal.describe())
    else:
        for name, value in deal.describe().items():
            say(f"{name + ':':<11}{plain(str(value))}")
    limit_minor = _limit_minor(deal, options)
    if deal.terms.amount_minor > limit_minor and not options.dry_run:
        limit = options.max or MAX_DOLLARS
        raise CommandFailed(
            f"the price {deal.price} is above --max {limit}; nothing was paid", NOT_PAID
        )


def _key() -> bytes:
    text = os.environ.get(KEY_VARIABLE, "")
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != 32 or not 0 < int.from_bytes(key) < ORDER:
        raise CommandFailed(
            f"set {KEY_VARIABLE} to the key that pays (32 bytes in hex); it is used to sign only",
            USAGE,
        )
    return key


async def _sign(deal: Deal, options: argparse.Namespace) -> Credential:
    key = _key()
    terms = deal.terms
    try:
        domain = known_domain(terms.chain_id, terms.token)
        if domain is None:
            if not options.rpc_url:
                raise CommandFailed(
                    "this token is not known here; name a node with --rpc-url to ask it", NOT_PAID
                )
            domain = await domain_from_chain(options.rpc_url, terms.chain_id, terms.token)
        purse = Purse(domain, _limit_minor(deal, options), options.nonce)
        return sign_payment(deal.challenge, purse, key, int(time.time()))
    except (PaymentDeclined, TokenUnknown) as error:
        raise CommandFailed(f"{error}; nothing was paid", NOT_PAID) from None


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    start = b""
    async for chunk in response.content.iter_chunked(CHUNK):
        start += chunk
        if len(start) >= PROBLEM_BYTES_MAX:
            break
    return start


async def _show(response: aiohttp.ClientResponse, start: bytes = b"") -> bytes:
    """Print the answer; return its beginning if it is a problem document, which is short.

    `start` is what was read of it already.
    """
    say(styled(plain(f"HTTP {response.status} {response.reason}"), "bold", sys.stderr))
    # Before the body: whoever cuts that short, as `| head` does, has paid and keeps the receipt.
    receipt = response.headers.get("Payment-Receipt")
    if receipt is not None:
        _show_receipt(receipt)
    kept = b""
    printer = BodyPrinter()
    printer.print(start)
    async for chunk in response.content.iter_chunked(CHUNK):
        printer.print(chunk)
        if response.content_type == PROBLEM and len(kept) < PROBLEM_BYTES_MAX:
            kept += chunk
    printer.print(b"", is_last=True)
    if for_people():
        say()
    return kept


def _show_receipt(field: str) -> None:
    try:
        receipt = Receipt.parse(field)
    except ParseError as error:
        say(plain(f"the receipt cannot be read: {error}"))
        return
    shown: Mapping[str, Any] = {
        "method": receipt.method,
        "reference": receipt.reference,
        "timestamp": receipt.timestamp,
        **receipt.extra,
    }
    say(plain("receipt: " + json.dumps(shown, default=str)))  # a fraction is a Decimal


def _call(options: argparse.Namespace) -> Call:
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
    body = _body(options.data)
    method = options.method or ("POST" if body is not None else "GET")
    if not _TOKEN.match(method):
        raise CommandFailed(f"--method {method!r} is no HTTP method", USAGE)
    return Call(method, options.url, body, _headers(options.header) | _ceiling(options))


def _ceiling(options: argparse.Namespace) -> dict[str, str]:
    """Tell the seller of `--max`, so that one who knows of such limits refuses at once."""
    if options.max is None or options.dry_run:
        return {}
    try:
        parse_minor(options.max, DECIMALS_MAX)
    except ValueError as error:
        raise CommandFailed(f"--max {options.max}: {error}", USAGE) from None
    names = {field.partition(":")[0].strip().lower() for field in options.header}
    return {} if FIELD.lower() in names else {FIELD: options.max}


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
