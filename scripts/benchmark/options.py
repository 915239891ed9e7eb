"""The command line that the measuring scripts share: what, how often, and in which form."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """What was asked for."""

    only: tuple[str, ...]
    rounds: int
    count: int
    json: bool

    def show(self, as_json: Callable[[], Any], as_table: Callable[[], str]) -> None:
        """Print a result: for people on a terminal, unless JSON is asked for."""
        if self.json or not sys.stdout.isatty():
            print(json.dumps(as_json(), indent=2))
        else:
            print(as_table())


def read_options(
    prog: str, description: str, epilog: str, words: Iterable[str], *, rounds: int, **count: int
) -> Options:
    """Read the command line; `count` is the name of one more option, and its default."""
    known = tuple(words)
    ((name, default),) = count.items()
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=rounds, help=f"default: {rounds}")
    parser.add_argument(
        f"--{name}",
        type=int,
        default=default,
        dest="count",
        metavar=name.upper(),
        help=f"in each round (default: {default})",
    )
    parser.add_argument(
        "--only", default="", metavar="WORDS", help=f"comma-separated, of {', '.join(known)}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, also on a terminal")
    found = parser.parse_args()
    only = tuple(filter(None, found.only.split(",")))
    if unknown := set(only) - {*known}:
        parser.error(f"--only does not know {', '.join(sorted(unknown))}")
    if min(found.rounds, found.count) < 1:
        parser.error(f"--rounds and --{name} are at least 1")
    return Options(only, found.rounds, found.count, found.json)


def say(text: str) -> None:
    """Tell whoever waits at a terminal how far it is."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)
