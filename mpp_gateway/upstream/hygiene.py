"""Which fields may cross the gateway. Lists, so that a reader can check them against the RFCs."""

from collections.abc import Collection

from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.x402_permits import OVERRIDES

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    }
)

# Every field in which some rail carries a credential, an offer or a receipt.
PAYMENT_FIELDS = frozenset(
    {
        "accept-payment",
        "payment-authorization",
        "payment-receipt",
        "payment-required",
        "payment-response",
        "payment-session",
        "payment-session-snapshot",
        "payment-signature",
        "sign-in-with-x",
        "x-cashu",
        "x-free-remaining",
        "x-free-reset",
        "x-payment",
        "x-payment-response",
        "x-max-price",
    }
)

CLIENT_ONLY = frozenset(
    {
        "authorization",
        "cookie",
        "cookie2",
        "expect",
        "forwarded",
        "host",
        "content-length",
        "via",
        "www-authenticate",
        "x-real-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "client-ip",
        "proxy",
        "remote-user",
        "x-remote-user",
        # By these some upstreams read another path or verb than the one that was paid for.
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-method",
        "x-original-url",
        "x-rewrite-url",
    }
)

REVALIDATING = frozenset({"if-modified-since", "if-none-match"})
PREVENTING = frozenset({"if-match", "if-unmodified-since"})
READING = frozenset({"GET", "HEAD"})

STRIPPED_FROM_REQUEST = HOP_BY_HOP | PAYMENT_FIELDS | CLIENT_ONLY
STRIPPED_FROM_RESPONSE = (
    (HOP_BY_HOP - {"trailer"})
    | PAYMENT_FIELDS
    | {"set-cookie", "set-cookie2", "www-authenticate", "alt-svc", "content-length"}
)


def _named_in_connection(headers: Headers) -> frozenset[str]:
    return frozenset(
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    )


def request_headers(headers: Headers, steering: Collection[str] = ()) -> Headers:
    """Return the client's fields that may go to the upstream.

    `steering` are the lower-case names of fields that would turn the seller's account at the
    upstream to another's use. A field named in `Connection` is dropped (RFC 9110 section 7.6.1).
    """
    dropped = STRIPPED_FROM_REQUEST | _named_in_connection(headers) | frozenset(steering)
    return tuple((name, value) for name, value in headers if _may_go(name.lower(), dropped))


def _may_go(name: str, dropped: Collection[str]) -> bool:
    # CGI-like upstreams read `X_Api_Key` as `X-Api-Key`: it would stand beside our own.
    return name not in dropped and not name.startswith(("x-forwarded-", ":")) and "_" not in name


def revalidating_fields(method: str) -> frozenset[str]:
    """Return the fields by which a request of `method` may be answered 304 (RFC 9110 section 13).

    Only reads are: `If-None-Match: *` on a PUT means to create and not to replace.
    """
    return REVALIDATING if method in READING else frozenset()


def preventing_fields(method: str, headers: Headers) -> frozenset[str]:
    """Return the fields by which a read may be answered 412 and that nothing is lost without.

    Not those of a GET for a part: whoever puts parts together needs all of one version.
    """
    is_part = method == "GET" and any(name.lower() == "range" for name, _ in headers)
    return PREVENTING if method in READING and not is_part else frozenset()


def request_trailers(trailers: Headers, steering: Collection[str] = ()) -> Headers:
    """Return the client's trailer fields that may go to the upstream, which may merge them.

    What must not stand in a head must not come after it either: `steering` as for the head.
    """
    dropped = STRIPPED_FROM_REQUEST | STRIPPED_FROM_RESPONSE | frozenset(steering)
    return tuple((name, value) for name, value in trailers if _may_go(name.lower(), dropped))


def response_trailers(trailers: Headers) -> Headers:
    """Return the upstream's trailer fields that may go to the client: no framing, no receipt.

    Nor what was used: it was settled by the head, and is between the upstream and the gateway.
    """
    dropped = STRIPPED_FROM_REQUEST | STRIPPED_FROM_RESPONSE | {OVERRIDES}
    return tuple((name, value) for name, value in trailers if _may_go(name.lower(), dropped))


def response_headers(headers: Headers) -> Headers:
    """Return the upstream's fields that may go to the client.

    A receipt or a challenge of the upstream would look like ours: nobody upstream can forge one.
    """
    dropped = STRIPPED_FROM_RESPONSE | _named_in_connection(headers)
    return tuple((name, value) for name, value in headers if name.lower() not in dropped)
