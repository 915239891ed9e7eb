"""The CORS protocol of the Fetch standard: which pages may call a paid API, and see its prices.

Credentials in its sense (cookies) are never allowed: what pays is a field that the page sets.
"""

import re
from dataclasses import dataclass

from mpp_gateway.protocol.messages import Headers, RequestHead

ALLOWED = (
    "Accept-Payment, Authorization, Content-Type, Idempotency-Key, Payment-Authorization,"
    " PAYMENT-SIGNATURE, X-Max-Price, X-PAYMENT"
)
EXPOSED = (
    "WWW-Authenticate, Payment-Receipt, Payment-Outcome, Payment-Session, Payment-Session-Snapshot,"
    " PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE, Retry-After, X-Free-Remaining,"
    " X-Free-Reset, *"
)
"""Without these names a page sees that it got a 402, and not what to pay. Old browsers do not know
the star, which is for the upstream's own fields."""
PREFIX = "access-control-"
_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(?:[ \t]*,[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+)*\Z")


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins may call. `*` among them is every one."""

    origins: frozenset[str]
    max_age_s: int = 600

    @property
    def is_open(self) -> bool:
        """Whether every page may call: then no answer depends on who asks."""
        return "*" in self.origins


def is_preflight(head: RequestHead) -> bool:
    """Tell whether a browser asks here what a page may send (Fetch, CORS-preflight request)."""
    return (
        head.method == "OPTIONS"
        and head.get("origin") is not None
        and head.get("access-control-request-method") is not None
    )


def permission(
    cors: Cors, origin: str | None, allow: str | None = None, wanted: str | None = None
) -> Headers:
    """Return the fields that let a page of `origin` read an answer, or those that vary with it.

    `allow` is set in the answer to a preflight: the methods of the route, as `Allow` lists them.
    `wanted` is what `Access-Control-Request-Headers` named; fields of an API are its own, so what
    a page wants to send it may send.
    """
    varies: Headers = () if cors.is_open else (("Vary", "Origin"),)
    if not cors.is_open and origin not in cors.origins:
        return varies
    allowed = "*" if cors.is_open or origin is None else origin
    fields: Headers = (("Access-Control-Allow-Origin", allowed), *varies)
    if allow is None:
        return (*fields, ("Access-Control-Expose-Headers", EXPOSED))
    names = wanted if wanted and _NAMES.match(wanted) else ALLOWED
    return (
        *fields,
        ("Access-Control-Allow-Methods", allow),
        ("Access-Control-Allow-Headers", names),
        ("Access-Control-Max-Age", str(cors.max_age_s)),
    )
