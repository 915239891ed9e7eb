"""Header fields as our text and as mitmproxy's bytes."""

from mitmproxy import http

from mpp_gateway.protocol.messages import Headers


def fields_of(headers: Headers) -> http.Headers:
    """Return `headers` as mitmproxy keeps them, byte for byte."""
    return http.Headers([(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers])


def text_of(headers: http.Headers) -> Headers:
    """Return `headers` as text, byte for byte."""
    return tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in headers.fields)
