"""mitmproxy's flows and our values: the only code that knows both."""

from collections.abc import Sequence

from mitmproxy import http

from mpp_gateway.engine.fields import text_of
from mpp_gateway.limits.clients import Network, counted_as
from mpp_gateway.protocol.messages import RequestHead


def head_of(flow: http.HTTPFlow, trusted: Sequence[Network]) -> RequestHead:
    """Return the head of the flow's request as the client sent it, past the `trusted` proxies."""
    request = flow.request
    target = request.data.path.decode("latin-1")
    if request.authority and not request.is_http2:
        # Absolute-form: kept visible, so that it is refused rather than read as a path.
        target = f"{request.scheme}://{request.data.authority.decode('latin-1')}{target}"
    peer = flow.client_conn.peername
    return RequestHead(
        method=request.data.method.decode("latin-1"),
        target=target,
        headers=text_of(request.headers),
        client=counted_as(
            peer[0] if peer else "", request.headers.get_all("x-forwarded-for"), trusted
        ),
    )
