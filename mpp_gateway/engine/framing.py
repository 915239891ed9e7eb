"""Message framing between a client and an upstream that may speak different versions of HTTP."""

import time

from mitmproxy import http
from mitmproxy.net.http.validate import validate_headers

from mpp_gateway.engine.answers import reason_phrase
from mpp_gateway.engine.fields import fields_of
from mpp_gateway.engine.origins import permit
from mpp_gateway.gateway.steps import Deliver, Forward
from mpp_gateway.protocol.cors import Cors

NO_CONTENT_STATUSES = frozenset({204, 304})


def content_length(headers: http.Headers) -> int | None:
    """Return the Content-Length, or None; the head was checked for ambiguous ones before."""
    value = headers.get("content-length")
    return int(value) if value is not None and value.isascii() and value.isdigit() else None


def upstream_request(
    forward: Forward, client_request: http.Request, body: bytes | None, *, ends: bool
) -> http.Request:
    """Return the request for the wire: the only object that ever carries the upstream's secret."""
    headers = fields_of((*forward.headers, *forward.secrets))
    if body is not None:
        if body or "content-length" in client_request.headers:
            headers["Content-Length"] = str(len(body))
    elif ends:
        # Nothing follows this head, whatever length the client wrote into it: the upstream would
        # take the head of the next request for the body, and what it cut off for a request of its
        # own, with our secret in it.
        if client_request.headers.get("content-length") == "0":
            headers["Content-Length"] = "0"
    elif "content-length" in client_request.headers:
        headers["Content-Length"] = client_request.headers["content-length"]
    else:
        headers["Transfer-Encoding"] = "chunked"
    now = time.time()
    return http.Request(
        host=forward.host,
        port=forward.port,
        method=forward.method.encode("latin-1"),
        scheme=forward.scheme.encode("latin-1"),
        authority=b"",
        path=forward.target.encode("latin-1"),
        http_version=b"HTTP/1.1",
        headers=headers,
        content=None,
        trailers=None,
        timestamp_start=now,
        timestamp_end=now,
    )


def set_delivered_head(
    flow: http.HTTPFlow, delivery: Deliver, ends: bool, keeps_length: bool, cors: Cors | None
) -> None:
    """Turn the upstream's head on `flow` into the one that the client gets."""
    response = flow.response
    assert response is not None
    length = response.headers.get("content-length")
    response.status_code = delivery.status
    response.http_version = "HTTP/1.1"
    response.headers = fields_of(delivery.headers)
    permit(cors, flow.request, response.headers)
    response.headers.pop("content-length", None)
    if length is not None and keeps_length and delivery.status != 204:
        response.headers["Content-Length"] = length
    elif ends or flow.request.method == "HEAD" or delivery.status in NO_CONTENT_STATUSES:
        if ends and flow.request.method != "HEAD" and delivery.status not in NO_CONTENT_STATUSES:
            response.headers["Content-Length"] = "0"
    elif flow.request.http_version == "HTTP/1.1":
        response.headers["Transfer-Encoding"] = "chunked"
    elif flow.request.http_version == "HTTP/1.0":
        response.headers["Connection"] = "close"


def set_answer_head(flow: http.HTTPFlow, keeps_connection: bool, cors: Cors | None) -> None:
    """Fit a head of our own to the client's connection."""
    response = flow.response
    assert response is not None
    response.http_version = "HTTP/1.1"
    if not response.reason:
        response.reason = reason_phrase(response.status_code)
    # Documents say themselves that they are for every page.
    if response.headers.get("access-control-allow-origin") != "*":
        permit(cors, flow.request, response.headers)
    if not keeps_connection and not flow.request.is_http2:
        response.headers["Connection"] = "close"


def is_unsound(headers: http.Headers, ends: bool) -> bool:
    """Whether nobody can say where the request ends: a foreign coding, or content announced by a
    head that ends its message (RFC 9113 section 8.1.1)."""
    return has_foreign_coding(headers) or (ends and headers.get("content-length", "0") != "0")


def is_ambiguous(response: http.Response) -> bool:
    """Whether two readers of an upstream's head could see its answer end in different places."""
    try:
        validate_headers(response)
    except ValueError:
        return True
    return has_foreign_coding(response.headers)


def has_foreign_coding(headers: http.Headers) -> bool:
    """Whether the body has a transfer coding besides chunked, which we could not undo."""
    codings = headers.get_all("transfer-encoding")
    return any(coding.strip().lower() != "chunked" for coding in codings)
