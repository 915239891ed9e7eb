"""The command line of scripts/bench."""

import argparse
import json
import sys
from collections.abc import Sequence

from benchmark.measure import Cell, measure
from benchmark.report import as_json, as_table
from benchmark.subjects import PATHS, SUBJECTS

EPILOG = """\
Measured is the CPU time of the process under test, user and system; nothing else that runs on the
machine is in it. Every server is warmed up, and the rounds go through all of them in turn. Printed
is the median of the rounds with the least and the most; JSON when piped.

free   a free route, forwarded to an upstream that answers at once
402    a paid route without a payment
paid   a paid route with a payment signed beforehand (evm, EIP-3009), each from another purse,
       settled by a facilitator that answers at once
"""


def chosen(only: Sequence[str]) -> list[Cell]:
    """Return the cells that the words of `--only` leave; no word of a kind leaves all of it."""
    subjects = [name for name in SUBJECTS if name in only] or list(SUBJECTS)
    paths = [path for path in PATHS if path in only] or list(PATHS)
    return [
        Cell(name, path) for path in paths for name in subjects if path in SUBJECTS[name].servers
    ]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="CPU time a request costs, side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--requests", type=int, default=1000, help="in each round (default: 1000)")
    parser.add_argument(
        "--only",
        default="",
        metavar="WORDS",
        help=f"comma-separated, of {', '.join((*SUBJECTS, *PATHS))}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, also on a terminal")
    options = parser.parse_args()
    only = list(filter(None, options.only.split(",")))
    if unknown := set(only) - {*SUBJECTS, *PATHS}:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    if min(options.rounds, options.requests) < 1:
        parser.error("--rounds and --requests are at least 1")
    cells = measure(chosen(only), options.rounds, options.requests, _say)
    if options.json or not sys.stdout.isatty():
        print(json.dumps(as_json(cells, options.rounds, options.requests), indent=2))
    else:
        print(as_table(cells))
    return 0


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
