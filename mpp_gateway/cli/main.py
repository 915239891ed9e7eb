"""The `mpp-gateway` command."""

import argparse
import asyncio
import errno
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from mpp_gateway import __version__
from mpp_gateway.cli import commands, ledger_verbs
from mpp_gateway.cli.exits import BAD_CONFIG, BROKEN_PIPE, EXIT_CODES, FAILED, INTERRUPTED
from mpp_gateway.cli.grammar import (
    Parser,
    Verbs,
    add_verb,
    config_argument,
    json_argument,
    subparsers,
)
from mpp_gateway.cli.output import CommandFailed, say, styled
from mpp_gateway.cli.start import leave
from mpp_gateway.config.report import did_you_mean
from mpp_gateway.errors import ConfigError

PORT_MAX = 65_535
PAYMENT_METHODS = ("evm", "tempo", "stripe")
"""By which `pay` pays: written out, for what knows of them takes long to import."""

UNWRITABLE = frozenset({errno.ENOSPC, errno.EIO, errno.EDQUOT})
EXAMPLES = """\
examples:
  mpp-gateway demo                              watch a paid call on a chain in this process
  mpp-gateway check --config gateway.yaml       what is for sale, or every mistake at once
  mpp-gateway serve --config gateway.yaml       sell it
  mpp-gateway explain POST /openai/v1/chat/completions --config gateway.yaml
  mpp-gateway pay http://127.0.0.1:4402/weather/now/Oslo --max 0.05
  mpp-gateway ledger balances --config gateway.yaml      where the money is
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    top = Parser(
        prog="mpp-gateway",
        description="A payment gateway for HTTP APIs: agents pay you per call.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mpp-gateway {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    _serve(verbs)
    _check(verbs)
    _explain(verbs)
    _pay(verbs)
    _demo(verbs)
    ledger_verbs.declare(verbs)
    return top


def verbs(top: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of the verbs by name; one below another is named after both."""
    found: dict[str, argparse.ArgumentParser] = {}
    declared = subparsers(top)
    for name, verb in declared.choices.items() if declared else ():
        found[name] = verb
        found |= {f"{name} {below}": inner for below, inner in verbs(verb).items()}
    return found


def _serve(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "serve",
        "sell what the configuration names",
        "Serves until it is told to stop (Ctrl-C, SIGTERM, SIGHUP); what is under way is finished"
        "\nfirst, for at most 30 seconds. A second signal stops at once.",
        "--config gateway.yaml",
        "--config gateway.yaml --port 8080",
    )
    config_argument(verb)
    verb.add_argument("--host", help="listen on this address instead of the file's")
    verb.add_argument("--port", type=_port, help="listen on this port instead of the file's")
    verb.set_defaults(run=commands.serve)


def _check(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "check",
        "check a configuration and list what it sells",
        "Prints every mistake of the file at once, or the table of services, routes, offers and"
        "\nprices (JSON when piped). Nothing is opened and nobody is called.",
        "--config gateway.yaml",
        "--config gateway.yaml --json",
    )
    config_argument(verb)
    json_argument(verb)
    verb.set_defaults(run=commands.check)


def _explain(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "explain",
        "say what would happen to a request, and why",
        "Walks one request through the configuration without sending it anywhere. Exits with 1 if\n"
        "the gateway itself would refuse it.",
        "GET /weather/v1/forecast --config gateway.yaml",
        "POST '/openai/v1/chat/completions?stream=1'",
    )
    verb.add_argument("method", metavar="METHOD", help="for instance GET; case matters")
    verb.add_argument("target", metavar="PATH", help="for instance /openai/v1/models?limit=2")
    config_argument(verb)
    json_argument(verb)
    verb.set_defaults(run=commands.explain)


def _pay(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "pay",
        "call a paid URL as a buyer",
        "Reads the 402, shows the price, pays with the key in MPP_PRIVATE_KEY and prints the answer"
        "\non stdout, the receipt on stderr. Without --max nothing above 0.10 dollars is paid, and"
        "\nno token that is not known to be a dollar."
        "\n\nOf several offers it pays the first, in the seller's order, that it can pay: on EVM"
        "\nchains (evm) by a signed authorization, on Tempo (tempo) by a signed transaction, whose"
        "\nfee the account pays unless the seller does, through Stripe (stripe) by a shared payment"
        "\ntoken. --method picks. For tests Stripe makes a token, for the price and the seller"
        "\nalone, for the test key in MPP_STRIPE_SECRET_KEY (sk_test_...); a live key is refused."
        "\n\nWithout a receipt and a whole answer it says what became of the payment. Where the"
        "\nseller has the money, or may still take it, it prints the credential: the same command"
        "\nwith that in MPP_CREDENTIAL presents it again and signs nothing. It goes to the origin"
        "\nin MPP_CREDENTIAL_FOR, which is printed with it, or else to the host of its realm; any"
        "\nother URL is refused. A payment goes with an Idempotency-Key, yours or a random one:"
        "\nunder the printed MPP_IDEMPOTENCY_KEY the seller can give the same answer again.",
        "http://127.0.0.1:4402/weather/v1/forecast --dry-run",
        "http://127.0.0.1:4402/weather/v1/forecast --max 0.05",
        "URL --method stripe --max 1.00 --spt spt_1N4Zv32eZvKYlo2CPhVPkJlW",
        "URL -d '{\"city\":\"Oslo\"}' -H 'Content-Type: application/json'",
    )
    verb.add_argument("url", metavar="URL", help="http:// or https:// URL of the call")
    verb.add_argument("-X", "--request", metavar="VERB", help="HTTP method (default: GET, or POST)")
    verb.add_argument("-d", "--data", default=None, help="request body; @FILE reads a file")
    verb.add_argument(
        "-H", "--header", action="append", default=[], metavar="NAME: VALUE", help="may be repeated"
    )
    verb.add_argument(
        "--max",
        metavar="AMOUNT",
        help="the most to pay: an amount and its unit ('0.05 usd'), or whole units of whatever"
        " token or currency is asked for (default: '0.10 usd'); sent as X-Max-Price; a fee of"
        " Tempo's comes on top, of 0.10 dollars at most",
    )
    verb.add_argument(
        "--method",
        type=_payment_method,
        metavar="NAME",
        help="pay by this method only: evm, tempo or stripe (default: the first that can pay)",
    )
    verb.add_argument(
        "--chain", type=int, metavar="ID", help="pay on this chain only (8453, 4217, ...)"
    )
    verb.add_argument(
        "--spt",
        metavar="TOKEN",
        help="shared payment token for the seller, by your wallet or agent (or in MPP_SPT)",
    )
    verb.add_argument(
        "--payment-method",
        metavar="ID",
        default="pm_card_visa",
        help="what Stripe's test mode makes a token from (default: pm_card_visa)",
    )
    verb.add_argument(
        "--insecure", action="store_true", help="pay in clear text (http://) beyond this machine"
    )
    verb.add_argument("--dry-run", action="store_true", help="show the price, pay nothing")
    verb.add_argument(
        "--rpc-url",
        metavar="URL",
        help="node that knows whether a payment was made, and tokens that this command does not",
    )
    verb.add_argument(
        "--nonce", choices=("packed", "json"), default="packed", help=argparse.SUPPRESS
    )
    verb.set_defaults(run=commands.pay)


def _payment_method(text: str) -> str:
    if text not in PAYMENT_METHODS:
        known = ", ".join(PAYMENT_METHODS)
        raise argparse.ArgumentTypeError(
            f"{text!r} is no payment method that this command knows ({known}); the HTTP method is"
            " --request"
        )
    return text


def _demo(verbs: Verbs) -> None:
    verb = add_verb(
        verbs,
        "demo",
        "watch a paid call: chain, API, gateway and buyer in one process",
        "Starts an EVM with a token, a sample API, the gateway and a buyer, pays once and shows the"
        "\nchallenge, the balances and the receipt. Without --once it stays up until Ctrl-C"
        "\nand shows how to sell an API of your own on its chain. Needs the `demo` extra.",
        "",
        "--once",
    )
    verb.add_argument(
        "--once", action="store_true", help="stop after the payment; 0 if it added up"
    )
    verb.add_argument("--port", type=_port, default=4402, help="the gateway's port (default: 4402)")
    verb.set_defaults(run=commands.demo)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > PORT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to {PORT_MAX})")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell (`>&-`)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    code = FAILED
    try:
        try:
            code = _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does.
        _write_no_more()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _write_no_more()
        say(f"the output cannot be written: {error.strerror}")
        # What became of a payment says more: whoever sees only "failed" would pay again.
        return code or FAILED
    return code


def _write_no_more() -> None:
    """Let what is left go nowhere, or the interpreter complains when it flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    top = parser()
    options, strange = top.parse_known_args(arguments)
    if strange:
        below = getattr(options, "question", None)
        verb = verbs(top)[f"{options.verb} {below}" if below else options.verb]
        word = strange[0].partition("=")[0]
        if not word.startswith("-"):
            verb.error(f"unexpected argument {word!r}")
        known = (name for a in verb._actions for name in a.option_strings)  # noqa: SLF001
        verb.error(f"unknown option {word}; {did_you_mean(word, known)}")
    return options


def _run(arguments: Sequence[str] | None) -> int:
    options = _parsed(arguments)
    try:
        work = options.run(options)
        if isinstance(work, int):
            return work  # it had nothing to wait for
        if signal.getsignal(signal.SIGINT) is leave:
            # From here on something is open: asyncio turns Ctrl-C into a cancellation.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        code: int = asyncio.run(work)
    except ConfigError as error:
        say(str(error))
        count = len(error.mistakes)
        say(styled(f"{count} mistake{'s' if count != 1 else ''}", "red", sys.stderr))
        return BAD_CONFIG
    except CommandFailed as error:
        say(f"{styled('mpp-gateway:', 'red', sys.stderr)} {error}")
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
