"""`mpp-gateway pay`: one paid call, with every number shown before anything is signed."""

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from mpp_gateway.cli.output import (
    FAILED,
    NOT_PAID,
    OK,
    USAGE,
    CommandFailed,
    emit_json,
    for_people,
    say,
    styled,
)
from mpp_gateway.crypto.addresses import checksum
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.money import format_minor, parse_minor
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.evm.payer import PaymentDeclined, Purse
from mpp_gateway.rails.evm.payer import pay as sign_payment
from mpp_gateway.rails.evm.request import Terms
from mpp_gateway.rails.evm.tokens import (
    KNOWN_DECIMALS,
    TokenUnknown,
    decimals_from_chain,
    domain_from_chain,
    known_domain,
)

KEY_VARIABLE = "MPP_PRIVATE_KEY"
PAYMENT_REQUIRED = 402
TIMEOUT_S = 120
CHUNK = 16 * 1024


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


async def pay(options: argparse.Namespace) -> int:
    """Call the URL, pay what it asks if that is within `--max`, print answer and receipt."""
    body = _body(options.data)
    method = options.method or ("POST" if body is not None else "GET")
    headers = _headers(options.header)
    _check_url(options.url)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=True) as session:
        try:
            async with session.request(
                method, options.url, data=body, headers=headers, allow_redirects=False
            ) as response:
                if response.status != PAYMENT_REQUIRED:
                    return await _show(response)
                deal = _choose(response.headers.getall("WWW-Authenticate", []))
            await _check_decimals(deal, options)
            _show_deal(deal, options)
            if options.dry_run:
                return OK
            credential = await _sign(deal, options)
            async with session.request(
                method,
                options.url,
                data=body,
                headers={**headers, "Authorization": credential},
                allow_redirects=False,
            ) as response:
                return await _show(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CommandFailed(f"{options.url}: {error or type(error).__name__}") from None


def _choose(fields: Sequence[str]) -> Deal:
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
        decimals = request["methodDetails"].get("decimals", 6)
        if isinstance(decimals, int) and 0 <= decimals <= 36:
            return Deal(challenge, terms, decimals)
    offered = ", ".join(f"{c.method}/{c.intent}" for c in challenges) or "nothing"
    raise CommandFailed(f"no offer that this command can pay (offered: {offered})", NOT_PAID)


async def _check_decimals(deal: Deal, options: argparse.Namespace) -> None:
    """Refuse a challenge that counts the token in other units than the token does itself."""
    terms = deal.terms
    if known_domain(terms.chain_id, terms.token) is not None:
        decimals = KNOWN_DECIMALS
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


def _show_deal(deal: Deal, options: argparse.Namespace) -> None:
    try:
        limit = parse_minor(options.max, deal.decimals)
    except ValueError as error:
        raise CommandFailed(f"--max {options.max}: {error}", USAGE) from None
    if options.dry_run and not for_people():
        emit_json(deal.describe())
    else:
        for name, value in deal.describe().items():
            say(f"{name + ':':<11}{value}")
    if deal.terms.amount_minor > limit and not options.dry_run:
        raise CommandFailed(
            f"the price {deal.price} is above --max {options.max}; nothing was paid", NOT_PAID
        )


async def _sign(deal: Deal, options: argparse.Namespace) -> str:
    text = os.environ.get(KEY_VARIABLE, "")
    try:
        key = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise CommandFailed(
            f"set {KEY_VARIABLE} to the key that pays (32 bytes in hex); it is used to sign only",
            USAGE,
        )
    terms = deal.terms
    try:
        domain = known_domain(terms.chain_id, terms.token)
        if domain is None:
            if not options.rpc_url:
                raise CommandFailed(
                    "this token is not known here; name a node with --rpc-url to ask it", NOT_PAID
                )
            domain = await domain_from_chain(options.rpc_url, terms.chain_id, terms.token)
        purse = Purse(domain, parse_minor(options.max, deal.decimals), options.nonce)
        return sign_payment(deal.challenge, purse, key, int(time.time())).format()
    except (PaymentDeclined, TokenUnknown) as error:
        raise CommandFailed(f"{error}; nothing was paid", NOT_PAID) from None


async def _show(response: aiohttp.ClientResponse) -> int:
    say(styled(f"HTTP {response.status} {response.reason}", "bold", sys.stderr))
    # Before the body: whoever cuts that short, as `| head` does, has paid and keeps the receipt.
    receipt = response.headers.get("Payment-Receipt")
    if receipt is not None:
        _show_receipt(receipt)
    async for chunk in response.content.iter_chunked(CHUNK):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    if for_people():
        say()
    return OK if response.status < 400 else FAILED


def _show_receipt(field: str) -> None:
    try:
        receipt = Receipt.parse(field)
    except ParseError as error:
        say(f"the receipt cannot be read: {error}")
        return
    shown: Mapping[str, Any] = {
        "method": receipt.method,
        "reference": receipt.reference,
        "timestamp": receipt.timestamp,
        **receipt.extra,
    }
    say("receipt: " + json.dumps(shown))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        raise CommandFailed(f"{url!r} is not an http:// or https:// URL", USAGE)


def _body(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise CommandFailed(f"{data[1:]}: {error.strerror}", USAGE) from None


def _headers(fields: Sequence[str]) -> dict[str, str]:
    headers = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon:
            raise CommandFailed(f"--header {field!r} is not NAME: VALUE", USAGE)
        if name.strip().lower() == "authorization":
            raise CommandFailed("--header Authorization: this command sends its own", USAGE)
        headers[name.strip()] = value.strip()
    return headers
