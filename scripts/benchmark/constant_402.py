"""The least that a mitmproxy script can do for a 402: the same bytes for everybody."""

from mitmproxy import http


def request(flow: http.HTTPFlow) -> None:
    """Answer here; nothing is asked of the upstream."""
    if flow.request.path == "/paid":
        flow.response = http.Response.make(402, b"{}", {"Content-Type": "application/json"})
