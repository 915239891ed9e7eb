"""Which offer of a 402 is paid: the first, in the seller's order, that a wallet can pay."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpp_gateway.cli.exits import NOT_PAID, USAGE
from mpp_gateway.cli.means import what_is_wanted
from mpp_gateway.cli.output import CommandFailed, emit_json, for_people, plain, say
from mpp_gateway.protocol.ceiling import Ceiling
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.rails.wallet import Deal, PaymentDeclined, Wallet

MAX_DOLLARS = "0.10"
DOLLAR = "usd"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offer, and the wallet that can read it."""

    wallet: Wallet
    deal: Deal


def candidates_of(
    fields: Sequence[str], wallets: Sequence[Wallet], options: argparse.Namespace
) -> list[Candidate]:
    """Return what can be paid of a 402, in the seller's order; if nothing can, what can be read.

    Errors: `CommandFailed` where that is nothing either.
    """
    try:
        challenges = Challenge.parse_all(fields)
    except ParseError as error:
        raise CommandFailed(f"the 402 cannot be read: {error}") from None
    found = [
        Candidate(wallet, deal)
        for challenge in challenges
        if options.method in {None, challenge.method}
        for wallet in wallets
        if (deal := wallet.read(challenge)) is not None and options.chain in {None, deal.chain_id}
    ]
    if not found:
        offered = plain(", ".join(f"{c.method}/{c.intent}" for c in challenges)) or "nothing"
        by = f" by {options.method}" if options.method else ""
        where = f" on chain {options.chain}" if options.chain else ""
        raise CommandFailed(
            f"no offer that this command can pay{by}{where} (offered: {offered})", NOT_PAID
        )
    return [candidate for candidate in found if candidate.wallet.can_sign] or found


async def show_first(candidates: Sequence[Candidate]) -> None:
    """Show the first offer that could be paid, and nothing else. Errors: `CommandFailed`."""
    reasons: list[str] = []
    for candidate in candidates:
        try:
            await candidate.wallet.check(candidate.deal)
        except PaymentDeclined as declined:
            reasons.append(str(declined))
            continue
        if for_people():
            _show(candidate.deal)
        else:
            emit_json(candidate.deal.describe())
        return
    raise _nothing_paid(reasons)


async def sign_first(
    candidates: Sequence[Candidate],
    options: argparse.Namespace,
    check: Callable[[Deal], None],
) -> Credential:
    """Return the credential for the first offer that can be paid; each is shown before.

    `check` raises `CommandFailed` where a deal cannot be made with this seller at all. An offer
    that is declined has cost nothing, and no seller has seen anything of it: so the next one may be
    tried.
    """
    reasons: list[str] = []
    for candidate in candidates:
        wallet, deal = candidate.wallet, candidate.deal
        if reasons:
            say(f"{plain(reasons[-1])}; the next offer:")
        try:
            await wallet.check(deal)
            _show(deal)
            _check_limit(deal, options.max)
            check(deal)
            if not wallet.can_sign:
                raise CommandFailed(what_is_wanted(wallet.method), USAGE)
            return await wallet.sign(deal, int(time.time()))
        except PaymentDeclined as declined:
            reasons.append(str(declined))
    raise _nothing_paid(reasons)


def _show(deal: Deal) -> None:
    for name, value in deal.describe().items():
        say(f"{name + ':':<11}{plain(str(value))}")


def _check_limit(deal: Deal, limit: str | None) -> None:
    """Refuse a price above the limit: in its unit, or in whole units of what is paid with."""
    if limit is None and deal.unit != DOLLAR:
        # The token is the seller's choice: a tenth of some tokens is worth a house.
        raise PaymentDeclined(
            "this token or currency is none of the dollars that are known here: name the most to"
            " pay of it with --max"
        )
    text = MAX_DOLLARS if limit is None else limit
    ceiling = Ceiling.of([text])
    assert ceiling is not None
    if deal.is_within(ceiling):
        return
    if ceiling.unit not in {None, deal.unit}:
        raise PaymentDeclined(
            f"the price {deal.price} is in no {ceiling.unit} that is known here, and --max is"
            f" {text}"
        )
    raise PaymentDeclined(f"the price {deal.price} is above --max {text}")


def _nothing_paid(reasons: Sequence[str]) -> CommandFailed:
    return CommandFailed(f"{plain('; '.join(reasons))}; nothing was paid", NOT_PAID)
