"""`mpp-gateway ledger reconcile`: the books beside the payment networks."""

import argparse
import asyncio
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

from mpp_gateway.cli.commands import read_config
from mpp_gateway.cli.exits import FAILED, NOT_COMPARED, OK
from mpp_gateway.cli.ledger import opened, wants_json
from mpp_gateway.cli.ledger_views import Assets, pairs_text
from mpp_gateway.cli.output import emit_json, plain, styled
from mpp_gateway.cli.progress import progress
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway.reconciliation import (
    Comparison,
    Difference,
    Reconciliation,
    not_compared,
    recipients,
)
from mpp_gateway.ledger import inquiry
from mpp_gateway.ledger.extract import BookedExchange, Extract
from mpp_gateway.protocol.timestamps import format_rfc3339
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.rails.statement import NoStatement, Statement

BATCH_ROWS = 5_000
WAITING_MAX = 1_000
"""How many refunds that are owed are told one by one; the others are counted."""
GONE = "the configuration has no method of this name"


@dataclass(slots=True)
class Outcome:
    """What came of all comparisons."""

    comparisons: list[Comparison] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a method was not compared, by its name."""
    exchanges: dict[str, int] = field(default_factory=dict)
    """How many exchanges of methods that were not compared there are."""
    waiting: list[BookedExchange] = field(default_factory=list)
    """Refunds that are owed, of all methods, the oldest debts first. No differences."""
    waiting_found: int = 0
    failed: bool = False
    """Whether a network could not be asked, that should have been."""

    @property
    def differences_found(self) -> int:
        """How many differences there are, over all methods."""
        return sum(found.differences_found for found in self.comparisons)

    @property
    def code(self) -> int:
        """The exit code. Where the books have something and nothing was compared, none is 0."""
        if self.differences_found:
            return FAILED
        has_nothing = not self.comparisons and any(self.exchanges.values())
        return NOT_COMPARED if self.failed or has_nothing else OK


async def compare(options: argparse.Namespace) -> int:
    """Compare what can be compared, and print what differs."""
    config = read_config(options.config)
    outcome = Outcome()
    async with AsyncExitStack() as stack:
        statements = await _statements(config, outcome, stack)
        extract = stack.enter_context(closing(Extract()))
        await _copy(config, extract)
        for outcome.waiting_found, owed in enumerate(extract.waiting(), 1):
            if outcome.waiting_found <= WAITING_MAX:
                outcome.waiting.append(owed)
        for name, (statement, last) in statements.items():
            asset = config.methods[name].asset.code
            work = Reconciliation(name, asset, statement, extract, last, int(time.time()))
            try:
                with progress(f"{name}: payments asked for, then the network searched") as tick:
                    first = None if statement.is_by_time else options.from_block
                    outcome.comparisons.append(await work.run(first, tick))
            except (RailUnavailable, RailMisconfigured) as error:
                _fail(outcome, name, error)
                outcome.comparisons.append(work.so_far)
        compared = {name for name in statements if name not in outcome.reasons}
        outcome.exchanges = dict(not_compared(extract, compared))
    for rail in outcome.exchanges:
        outcome.reasons.setdefault(rail, GONE)
    assets = Assets(config)
    if wants_json(options):
        emit_json(_json(outcome, assets))
    else:
        print(_text(outcome, assets))
    return outcome.code


async def _statements(
    config: GatewayConfig, outcome: Outcome, stack: AsyncExitStack
) -> dict[str, tuple[Statement, int]]:
    """Return the statement of each method and its newest place, before the books are read."""
    found: dict[str, tuple[Statement, int]] = {}
    for name, method in config.methods.items():
        try:
            statement = registry.statement(name, method, recipients(config, name))
            stack.push_async_callback(statement.close)
            found[name] = statement, await statement.newest()
        except NoStatement as error:
            outcome.reasons[name] = str(error)
        except (RailUnavailable, RailMisconfigured) as error:
            _fail(outcome, name, error)
    return found


def _fail(outcome: Outcome, name: str, error: RailUnavailable | RailMisconfigured) -> None:
    outcome.failed = True
    private = getattr(error, "private", "")
    outcome.reasons[name] = f"{error} ({private})" if private else str(error)


async def _copy(config: GatewayConfig, extract: Extract) -> None:
    with opened(config) as books, progress("exchanges read") as tick:
        for number, batch in enumerate(batched(inquiry.every(books), BATCH_ROWS, strict=False)):
            extract.add(batch)
            tick(number * BATCH_ROWS)
            await asyncio.sleep(0)  # so that Ctrl-C is heard


def _json(outcome: Outcome, assets: Assets) -> dict[str, Any]:
    return {
        "agrees": outcome.code == OK,
        "differences_found": outcome.differences_found,
        "compared": [
            {
                "rail": done.rail,
                "exchanges": done.exchanges,
                "found": done.found,
                "refunds_found": done.refunds,
                "under_way": done.under_way,
                "other_transfers": done.others,
                "from_block": None if done.is_by_time else done.first,
                "to_block": None if done.is_by_time else done.last,
                "from_at": _at(done.first) if done.is_by_time else None,
                "to_at": _at(done.last) if done.is_by_time else None,
                "differences": [_difference_json(found, assets) for found in done.differences],
            }
            for done in outcome.comparisons
        ],
        "refunds_waiting": outcome.waiting_found,
        "waiting": [_waiting_json(owed, assets) for owed in outcome.waiting],
        "not_compared": [
            {"rail": rail, "exchanges": outcome.exchanges.get(rail, 0), "reason": reason}
            for rail, reason in outcome.reasons.items()
        ],
    }


def _waiting_json(owed: BookedExchange, assets: Assets) -> dict[str, Any]:
    return {
        "rail": owed.rail,
        "exchange_id": owed.exchange_id,
        "proof_id": owed.proof_id,
        "amount_minor": str(owed.amount_minor),
        "amount": assets.exact(owed.amount_minor, owed.asset),
        "since_at": format_rfc3339(owed.updated_s),
        "since_s": owed.updated_s,
    }


def _difference_json(found: Difference, assets: Assets) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "text": found.text,
        "exchange_id": found.exchange_id or None,
        "proof_id": found.proof_id or None,
        "reference": found.reference,
        "amount_minor": str(found.amount_minor),
        "amount": assets.exact(found.amount_minor, found.asset),
    }


def _text(outcome: Outcome, assets: Assets) -> str:
    parts = [part for done in outcome.comparisons for part in _comparison_text(done, assets)]
    parts += _waiting_text(outcome, assets)
    for rail, reason in outcome.reasons.items():
        count = outcome.exchanges.get(rail, 0)
        word = styled("not compared", "yellow")
        parts.append(f"{plain(rail)}: {word} ({count} exchanges): {plain(reason)}")
    parts += ["", _verdict(outcome)]
    return "\n".join(parts)


def _waiting_text(outcome: Outcome, assets: Assets) -> Iterable[str]:
    for owed in outcome.waiting:
        amount = assets.amount(owed.amount_minor, owed.asset)
        since = format_rfc3339(owed.updated_s)
        yield f"\n{styled('waiting', 'yellow')}  {amount}  to be given back since {since}"
        yield pairs_text([("exchange", owed.exchange_id), ("rail", owed.rail)])
    if outcome.waiting_found > len(outcome.waiting):
        yield f"and {outcome.waiting_found - len(outcome.waiting)} more refunds that wait"


def _verdict(outcome: Outcome) -> str:
    count = outcome.differences_found
    if count:
        return styled(f"{count} difference{'s' if count > 1 else ''}", "red")
    if outcome.code == NOT_COMPARED:
        return styled("not everything could be compared", "yellow")
    return (
        styled("the books and the networks agree", "green")
        if outcome.comparisons
        else "nothing to compare"
    )


def _comparison_text(done: Comparison, assets: Assets) -> Iterable[str]:
    yield styled(plain(done.rail), "bold")
    yield pairs_text(
        [
            ("exchanges", str(done.exchanges)),
            ("payments found", str(done.found)),
            ("refunds found", str(done.refunds)),
            ("under way", str(done.under_way)),
            ("other transfers", str(done.others)),
            ("searched", f"from {_place(done, done.first)} to {_place(done, done.last)}"),
        ]
    )
    for found in done.differences:
        amount = assets.amount(found.amount_minor, found.asset)
        yield f"\n{styled(found.kind, 'red')}  {amount}  {plain(found.text)}"
        yield pairs_text(
            [
                *([("exchange", found.exchange_id)] if found.exchange_id else []),
                *([("proof", found.proof_id)] if found.proof_id else []),
                ("reference", found.reference or "-"),
            ]
        )
    if done.differences_found > len(done.differences):
        yield f"and {done.differences_found - len(done.differences)} more"


def _place(done: Comparison, place: int | None) -> str:
    if done.is_by_time:
        return _at(place) or "-"
    return "-" if place is None else f"block {place}"


def _at(place: int | None) -> str | None:
    return format_rfc3339(place) if place else None  # 0: nothing was ever paid there
