"""How every verb of the command line is declared: help with examples, errors in one line."""

import argparse
from pathlib import Path
from typing import NoReturn

from mpp_gateway.cli.exits import EXIT_CODES, USAGE

DEFAULT_CONFIG = Path("gateway.yaml")


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line that names the help."""

    def error(self, message: str) -> NoReturn:
        """End with what is wrong and where the right is described, in one line."""
        self.exit(USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


type Verbs = argparse._SubParsersAction[Parser]  # noqa: SLF001 - no public name


def add_verb(
    verbs: Verbs,
    name: str,
    summary: str,
    description: str,
    *examples: str,
    group: str = "",
    codes: str = EXIT_CODES,
) -> Parser:
    """Declare a verb; an example is what follows its name. `group` is the verb it is below."""
    whole = f"{group} {name}".strip()
    lines = "\n".join(f"  mpp-gateway {whole} {example}".rstrip() for example in examples)
    return verbs.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{lines}\n\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def config_argument(verb: argparse.ArgumentParser) -> None:
    """Declare `--config`."""
    verb.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="FILE",
        help="the configuration file (default: gateway.yaml)",
    )


def json_argument(verb: argparse.ArgumentParser) -> None:
    """Declare `--json`."""
    verb.add_argument("--json", action="store_true", help="print JSON, also on a terminal")


def subparsers(parser: argparse.ArgumentParser) -> Verbs | None:
    """Return the declaration of the verbs below `parser`, if it has any."""
    for action in parser._actions:  # noqa: SLF001 - no public name
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return action
    return None
