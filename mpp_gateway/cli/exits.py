"""The exit codes of the command, and what they mean."""

OK = 0
FAILED = 1
USAGE = 2
BAD_CONFIG = 3
CANNOT_START = 4
NOT_PAID = 5
OWED = 6
NOT_COMPARED = 7
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
BROKEN_PIPE = 141

_MEANINGS = {
    OK: "done",
    FAILED: "what was asked for failed; of a payment nothing was kept, unless the text says so",
    USAGE: "wrong usage",
    BAD_CONFIG: "the configuration has mistakes",
    CANNOT_START: "the gateway cannot start (port in use, store unusable), or its store cannot be"
    " read",
    NOT_PAID: "no payment was made (price above --max, no offer that can be paid)",
    OWED: "paid, or perhaps paid, and not delivered: do not pay again, present MPP_CREDENTIAL",
    NOT_COMPARED: "what the payment network says could not be asked, or not for everything",
    INTERRUPTED: "interrupted (Ctrl-C)",
    BROKEN_PIPE: "whoever read the output left",
}
_OF_BOOKS = {
    FAILED: "nothing has that name, the books are wrong or differ, or no file could be written",
    CANNOT_START: "the store cannot be read",
}
_OF_PAYMENTS = {NOT_PAID, OWED}


def _text(meanings: dict[int, str]) -> str:
    return "\n".join(["exit codes:", *(f"  {code:<3}  {m}" for code, m in meanings.items())])


EXIT_CODES = _text(_MEANINGS)
LEDGER_EXIT_CODES = _text(
    {c: m for c, m in (_MEANINGS | _OF_BOOKS).items() if c not in _OF_PAYMENTS}
)
"""Those of `mpp-gateway ledger`, which pays for nothing."""
