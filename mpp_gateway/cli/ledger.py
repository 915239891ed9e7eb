"""`mpp-gateway ledger`: one function a question, each over one snapshot of the store."""

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mpp_gateway.cli import ledger_views as views
from mpp_gateway.cli.commands import read_config
from mpp_gateway.cli.exits import CANNOT_START, FAILED, OK
from mpp_gateway.cli.ledger_export import exported
from mpp_gateway.cli.output import CommandFailed, emit_json, for_people, plain
from mpp_gateway.cli.progress import progress
from mpp_gateway.cli.start import leave
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.ledger import audit, inquiry
from mpp_gateway.ledger.reading import Reading, StoreDamaged, reading
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable


def balances(options: argparse.Namespace) -> int:
    """Print how much money is in which state."""
    config = read_config(options.config)
    with opened(config) as books, progress("reading the books"):
        since_s = int(time.time()) - config.credit_s
        found = list(inquiry.balances(books, since_s, by_account=options.by == "account"))
    assets = views.Assets(config)
    if wants_json(options):
        emit_json(views.balances_json(found, assets))
    else:
        print(views.balances_text(found, assets))
    return OK


def exchanges(options: argparse.Namespace) -> int:
    """Print the newest exchanges."""
    config = read_config(options.config)
    with opened(config) as books, progress("reading the books"):
        found = list(
            inquiry.newest(
                books,
                limit=options.limit,
                state=options.state,
                rail=options.rail,
                since_s=options.since,
            )
        )
    assets = views.Assets(config)
    if wants_json(options):
        emit_json({"exchanges": [views.record_json(record, assets) for record in found]})
    else:
        print(views.exchanges_text(found, assets))
    return OK


def show(options: argparse.Namespace) -> int:
    """Print all that is known of one exchange."""
    # Heavy, and of no use to the other questions.
    from mpp_gateway.rails.registry import transactions_for  # noqa: PLC0415

    config = read_config(options.config)
    with opened(config) as books, progress("reading the books"):
        record = _one(inquiry.find(books, options.id), options.id)
        story = views.Story(
            record,
            tuple(inquiry.moves(books, record.exchange_id)),
            tuple(transactions_for(books, record.proof_id)),
            inquiry.kept(books, record.exchange_id),
            int(time.time()),
            config.credit_s,
        )
    assets = views.Assets(config)
    if wants_json(options):
        emit_json(views.story_json(story, assets))
    else:
        print(views.story_text(story, assets))
    return OK


def verify(options: argparse.Namespace) -> int:
    """Check the books against their journal."""
    config = read_config(options.config)
    with opened(config) as books, progress("exchanges checked") as tick:
        found = audit.audit(books, tick)
    assets = views.Assets(config)
    if wants_json(options):
        emit_json(views.audit_json(found, assets))
    else:
        print(views.audit_text(found, assets))
    return OK if found.is_sound else FAILED


def export(options: argparse.Namespace) -> int:
    """Write every exchange, or every line of the journal."""
    config = read_config(options.config)
    names = views.MOVE_NAMES if options.journal else views.RECORD_NAMES
    with (
        exported(options.output) as out,
        opened(config) as books,
        progress("rows written") as tick,
    ):
        rows = views.export_rows(books, views.Assets(config), is_journal=options.journal)
        views.WRITERS[options.format](out, names, rows, tick)
    return OK


@contextmanager
def opened(config: GatewayConfig) -> Iterator[Reading]:
    """Open the store of `config` for reading; what is wrong with it ends the command."""
    from mpp_gateway.gateway.serving import MIGRATIONS  # noqa: PLC0415 - heavy

    if signal.getsignal(signal.SIGINT) is leave:
        # What is open from here on is closed by leaving its block.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with reading(config.store, len(MIGRATIONS)) as books:
            yield books
    except StoreDamaged as error:
        raise CommandFailed(
            f"the store is damaged: {error} (`mpp-gateway ledger verify` lists what is wrong)",
            CANNOT_START,
        ) from None
    except (StoreUnavailable, StoreTooNew) as error:
        raise CommandFailed(str(error), CANNOT_START) from None


def wants_json(options: argparse.Namespace) -> bool:
    """Whether the result is for a program: where nobody looks, or where it is asked for."""
    return options.json or not for_people()


def _one(found: list[inquiry.Record], name: str) -> inquiry.Record:
    if len(found) == 1:
        return found[0]
    shown = plain(name)
    if not found:
        raise CommandFailed(
            f"nothing in the ledger has an id, a proof or a reference that begins with {shown!r}"
            f" (give at least {inquiry.PREFIX_MIN} characters; `mpp-gateway ledger exchanges` lists"
            " ids)"
        )
    ids = ", ".join(plain(record.exchange_id) for record in found)
    raise CommandFailed(f"{shown!r} is not of one exchange alone; name one of: {ids}")
