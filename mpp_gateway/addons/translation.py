"""mitmproxy's flows and our values: the only code that knows both."""

from collections.abc import Sequence

from mitmproxy import http

from mpp_gateway.engine.fields import text_of
from mpp_gateway.limits.clients import Network, counted_as
from mpp_gateway.protocol.credential import Credential, payment_tokens
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.payment_scheme import PAYMENT_AUTHORIZATION

HIDDEN_TOKEN = "spt_hidden"  # noqa: S105 - it stands for one
UNREADABLE = "Payment hidden"
TOKEN_FIELDS = ("authorization", PAYMENT_AUTHORIZATION, "proxy-authorization")
"""Where a buyer, or a client that takes us for a forward proxy, puts a token."""


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


def conceal_tokens(flow: http.HTTPFlow) -> None:
    """Take the buyers' payment tokens out of the flow's own view of the request.

    A signature is worth nothing once it is used; a shared payment token may be good for more, and
    a flow is shown, saved and exported.
    """
    for name in TOKEN_FIELDS:
        values = flow.request.headers.get_all(name)
        concealed = [_concealed(value) for value in values]
        if concealed != values:
            flow.request.headers.set_all(name, concealed)


def _concealed(value: str) -> str:
    if "payment" not in value.lower():
        return value
    try:
        tokens = payment_tokens([value])
        for token in tokens:
            credential = Credential.parse(token)
            if "spt" in credential.payload:
                payload = {**credential.payload, "spt": HIDDEN_TOKEN}
                shown = Credential(credential.challenge, payload, credential.source).format()
                value = value.replace(token, shown.removeprefix("Payment "))
    except (Problem, ValueError):
        return UNREADABLE
    return value
