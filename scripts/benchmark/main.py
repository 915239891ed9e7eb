"""The command line of scripts/bench."""

from collections.abc import Sequence

from benchmark.measure import Cell, measure
from benchmark.options import read_options, say
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
    options = read_options(
        "scripts/bench",
        "CPU time a request costs, side by side.",
        EPILOG,
        (*SUBJECTS, *PATHS),
        rounds=5,
        requests=1000,
    )
    cells = measure(chosen(options.only), options.rounds, options.count, say)
    options.show(lambda: as_json(cells, options.rounds, options.count), lambda: as_table(cells))
    return 0
