"""`mpp-gateway pay`: one paid call, with every number shown before anything is signed."""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import aiohttp

from mpp_gateway.cli import outcome
from mpp_gateway.cli.call import TIMEOUT_S, Call, call_of
from mpp_gateway.cli.choosing import candidates_of, show_first, sign_first
from mpp_gateway.cli.exits import FAILED, NOT_PAID, OK, USAGE
from mpp_gateway.cli.kept import Payment, check_clear_text, kept_credential, kept_key
from mpp_gateway.cli.means import wallets_of
from mpp_gateway.cli.outcome import PAYMENT_REQUIRED, PROBLEM
from mpp_gateway.cli.output import BodyPrinter, CommandFailed, for_people, plain, say, styled
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.receipt import Receipt
from mpp_gateway.rails.wallet import Deal, NotAnswered, Wallet

CHUNK = 16 * 1024
PROBLEM_BYTES_MAX = 64 * 1024
_ENDING = (signal.SIGTERM, signal.SIGHUP)


async def pay(options: argparse.Namespace) -> int:
    """Call the URL, pay what it asks if that is within `--max`, print answer and receipt."""
    call = call_of(options)
    presented = None if options.dry_run else kept_credential(os.environ, call.url)
    signs = presented is None and not options.dry_run
    wallets = wallets_of(options, os.environ, signs=signs)
    if presented is not None:
        check_clear_text(call.url, USAGE, is_allowed=options.insecure)
        call.check_field(presented.challenge)
        payment = call.payment(presented, kept_key(os.environ))
        with _ended_with_words():
            return await _present(call, payment, wallets, is_new=False)
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
            fields = response.headers.getall("WWW-Authenticate", [])
            if not fields and "PAYMENT-REQUIRED" in response.headers:
                message = "the seller takes x402 alone, which this command does not speak"
                raise CommandFailed(f"{message}; nothing was paid", NOT_PAID)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CommandFailed(f"{call.url}: {_words(error)}") from None
    candidates = candidates_of(fields, wallets, options)
    if options.dry_run:
        await show_first(candidates)
        return OK

    def check(deal: Deal) -> None:
        check_clear_text(call.url, NOT_PAID, is_allowed=options.insecure)
        call.check_field(deal.challenge)
        if not deal.amount_minor:
            call.check_realm(deal.challenge)

    payment = call.payment(await sign_first(candidates, options, check), None)
    with _ended_with_words():
        return await _present(call, payment, wallets, is_new=True)


@contextlib.contextmanager
def _ended_with_words() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end it as Ctrl-C does: `timeout` and agents' runners send those.

    What they would cut off without a word is a payment that the seller has.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    heard: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        heard.append(number)
        task.cancel()

    # One that is ignored stays so, as with `nohup`.
    numbers = [n for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if not heard:
            raise
        raise CommandFailed(f"ended by {heard[0].name}", 128 + heard[0]) from None
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _present(call: Call, payment: Payment, wallets: Sequence[Wallet], *, is_new: bool) -> int:
    """Ask with the payment; however that ends, say what became of the money."""
    lost = outcome.UNKNOWN
    try:
        async with call.answer(payment) as response:
            has_receipt = "Payment-Receipt" in response.headers
            lost = outcome.BROKEN if has_receipt else lost
            body = await _show(response)
        if has_receipt and response.status < 400:
            return OK
        # Whoever sees only that it failed would pay again: a receipt does not end it then.
        found = outcome.judge(response.status, response.content_type, body, is_new=is_new)
        if found is None or found.is_claim:
            made = await _is_made(payment.credential, wallets)
            method = payment.credential.challenge.method
            if found is None and has_receipt and made is None:
                found = outcome.CHARGED
            found = outcome.weigh(found, is_made=made, method=method)
            # A redirect is no answer: it was not followed, and the payment is not for elsewhere.
            found = found if response.status >= 300 else found.delivered()
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


async def _is_made(credential: Credential, wallets: Sequence[Wallet]) -> bool | None:
    """Ask the payment network whether a payment was made; None where it cannot be asked."""
    method = credential.challenge.method
    wallet = next((wallet for wallet in wallets if wallet.method == method), None)
    try:
        return None if wallet is None else await wallet.is_made(credential)
    except NotAnswered as error:
        say(plain(str(error)))
        return None


def _words(error: Exception) -> str:
    return plain(str(error)) or type(error).__name__


async def _start_of(response: aiohttp.ClientResponse) -> bytes:
    """Return what there is of it in good time: nothing is shown meanwhile."""
    start = b""
    # Bytes that come one by one would make it hours.
    async with asyncio.timeout(TIMEOUT_S):
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
    if (place := response.headers.get("Location")) is not None:
        say(f"location:  {plain(place)}")
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
