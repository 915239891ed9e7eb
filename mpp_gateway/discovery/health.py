"""Is the process alive, and can it serve?"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mpp_gateway.discovery.listing import encode
from mpp_gateway.errors import NotReady
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.protocol.messages import Answer

REASON_LENGTH_MAX = 200
READ_MAX = 2000
REDACTED = "[redacted]"
_TELLING = re.compile(
    r"""
      \S*://\S+                               # URLs, with whatever is in them
    | \S*@\S+                                 # user information
    | \S*0x[0-9A-Fa-f]{4,}\S*                 # accounts, keys, hashes
    | \S*\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]\S* # IPv6 addresses
    | \S*:[0-9A-Fa-f]*:\S*
    | \S+:[0-9]+\S*                           # host:port
    | \S*\w\.\w\S*                            # host names, IPv4 addresses, file names
    | \S*[/\\]\S*                             # paths
    | \S*[A-Za-z0-9+_=-]{20,}\S*              # tokens
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """Whether the gateway serves; `problems` says by rail name what keeps a rail from it."""

    is_open: bool
    problems: Mapping[str, str] = field(default_factory=dict)


def alive() -> Answer:
    """Return 200: whoever can answer is alive."""
    return _status("ok")


def ready(state: RuntimeState) -> Answer:
    """Return 200 when calls can be served and paid for, else 503 and why, rail by rail."""
    if not state.is_open:
        return problem_answer(NotReady("The gateway is not open; its log says why."))
    if not state.problems:
        return _status("ready")
    rails = {name: public_reason(text) for name, text in sorted(state.problems.items())}
    problem = NotReady("Some payment methods are not ready.", extra={"rails": rails})
    return problem_answer(problem)


def public_reason(text: str) -> str:
    """Return a reason without anything that looks like an address, a path or a secret.

    Health pages are open to everybody, and the URL of a node tends to hold its access key.
    """
    words = text[:READ_MAX].split()
    if len(text) > READ_MAX:
        del words[-1:]  # cut in two, it may not look like a secret any more
    line = _TELLING.sub(REDACTED, " ".join(words))
    return line if len(line) <= REASON_LENGTH_MAX else line[: REASON_LENGTH_MAX - 1] + "…"


def _status(word: str) -> Answer:
    headers = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
    return Answer(200, headers, encode({"status": word}))
