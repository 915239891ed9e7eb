"""The grammar of `mpp-gateway ledger`: what can be asked of the books."""

import argparse
import re
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpp_gateway.cli import ledger
from mpp_gateway.cli.exits import LEDGER_EXIT_CODES
from mpp_gateway.cli.grammar import Verbs, add_verb, config_argument, json_argument
from mpp_gateway.ledger.states import State

GROUP = "ledger"
LIMIT = 20
_AGE = re.compile(r"([1-9][0-9]{0,8})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def declare(verbs: Verbs) -> None:
    """Declare the group and its verbs."""
    group = add_verb(
        verbs,
        GROUP,
        "read the books: balances, exchanges, checks, export",
        "Reads the store that the configuration names, also while the gateway runs. Nothing is"
        "\nwritten, upgraded or locked. JSON into a pipe, text on a terminal.",
        "balances --config gateway.yaml",
        "exchanges --state credited",
        "show 019a4b6c1f2e7d",
        "verify",
        "reconcile",
        "export --format csv --output books.csv",
        codes=LEDGER_EXIT_CODES,
    )
    below = group.add_subparsers(
        dest="question", required=True, metavar="QUESTION", help="what is asked of the books"
    )
    _balances(below)
    _exchanges(below)
    _show(below)
    _verify(below)
    _reconcile(below)
    _export(below)


def _balances(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "balances",
        "how much money is in which state",
        "Counts and sums by rail, asset and state, and what they come to: received, owed to"
        "\nbuyers, given back, under way, unknown. What was released was never paid.",
        "--config gateway.yaml",
        "--by account",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    verb.add_argument("--by", choices=("account",), help="one sum for each buyer's account")
    _ends(verb, ledger.balances)


def _exchanges(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "exchanges",
        "the last paid calls, the newest first",
        "One exchange is one payment and the call that it is for. `show` takes the beginning of"
        "\nits id.",
        "--config gateway.yaml",
        "--state unknown --limit 100",
        "--since 24h --rail base",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    verb.add_argument("--state", choices=[str(state) for state in State], help="in this state only")
    verb.add_argument("--rail", metavar="NAME", help="of this entry of `methods` only")
    verb.add_argument(
        "--since",
        type=_since_s,
        metavar="TIME",
        help="begun since then: 2026-08-01, 2026-08-01T10:00:00Z, or ago: 30m, 24h, 7d",
    )
    verb.add_argument(
        "--limit", type=_count, default=LIMIT, metavar="N", help=f"how many (default: {LIMIT})"
    )
    _ends(verb, ledger.exchanges)


def _show(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "show",
        "all that is known of one exchange, and what happens next",
        "With its journal, the transactions sent for it, and whether its answer is kept. Neither"
        "\nan answer nor a signed transaction is ever shown.",
        "019a4b6c1f2e7d --config gateway.yaml",
        "0xd2723a4e5b",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    verb.add_argument(
        "id",
        metavar="ID",
        help="id of an exchange, of a proof or of a transaction, or how it begins (6 characters)",
    )
    _ends(verb, ledger.show)


def _verify(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "verify",
        "recompute every state and balance from the journal",
        "Exits with 1 and a list of what is wrong, if anything is: a line that is missing, double,"
        "\nchanged or illegal, a row that says something else. An exchange that was taken out"
        "\nwith all of its lines is not seen here; `reconcile` finds it if it was paid.",
        "--config gateway.yaml",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    _ends(verb, ledger.verify)


def _reconcile(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "reconcile",
        "compare the books with the payment networks",
        "Looks for every payment of the books on its chain or at Stripe, and for every payment by"
        "\nproof to you in the books; for every refund of the books, and for money that went back"
        "\nto a buyer and that no refund explains. Refunds that are owed are told with the time"
        "\nsince which they wait. Exits with 0 if all that could be compared agrees, with 1 on a"
        "\ndifference, with 7 if a network could not be asked. A method without `rpc_url` cannot"
        "\nbe compared and is named. Other money by no proof is counted, and no fault. Addresses"
        "\nand accounts must be the gateway's own: what another store sold to them is extra.",
        "--config gateway.yaml",
        "--from-block 21000000",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    verb.add_argument(
        "--from-block",
        type=_block,
        metavar="N",
        help="on chains, search for unknown payments from this block on (default: an hour before"
        " the first exchange)",
    )
    _ends(verb, reconcile)


def _export(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "export",
        "every exchange, or every line of the journal, as CSV or JSON Lines",
        "Amounts are whole numbers of minor units; `decimals` says how many of them one unit has."
        "\nIn CSV a text that a spreadsheet would take for a formula begins with an apostrophe.",
        "--format csv --output books.csv",
        "--format jsonl --journal --config gateway.yaml",
        group=GROUP,
        codes=LEDGER_EXIT_CODES,
    )
    verb.add_argument(
        "--format", choices=("csv", "jsonl"), default="csv", help="form of the rows (default: csv)"
    )
    verb.add_argument(
        "--journal", action="store_true", help="one row a line of the journal, not an exchange"
    )
    verb.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write this file, for its owner alone, and put it in place once it is whole",
    )
    config_argument(verb)
    verb.set_defaults(run=ledger.export)


def reconcile(options: argparse.Namespace) -> Coroutine[Any, Any, int]:
    """Compare the books with the payment networks."""
    # Heavy: it speaks to nodes.
    from mpp_gateway.cli.ledger_reconcile import compare  # noqa: PLC0415

    return compare(options)


def _ends(verb: argparse.ArgumentParser, run: object) -> None:
    config_argument(verb)
    json_argument(verb)
    verb.set_defaults(run=run)


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of exchanges (1 or more)")
    return int(text)


def _block(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a block")
    return int(text)


def _since_s(text: str) -> int:
    return since_s(text, int(time.time()))


def since_s(text: str, now_s: int) -> int:
    """Return the unix time that `text` means at `now_s`: a day, a moment, or how long ago."""
    if age := _AGE.fullmatch(text):
        return now_s - int(age[1]) * _SECONDS[age[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2026-08-01, 2026-08-01T10:00:00Z or 24h"
        ) from None
    # Times are UTC wherever they are shown, so they are where they are asked for.
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(aware.timestamp())
