"""What our answers and the upstream's say to pages of other sites."""

from mitmproxy import http

from mpp_gateway.protocol.cors import PREFIX, Cors, permission

VARY = "vary"


def permit(cors: Cors | None, request: http.Request, headers: http.Headers) -> None:
    """Have an answer's head say which pages may read it, as the configuration wants it.

    Whatever the upstream says of that is of its own site: two answers, and browsers believe none.
    Without a configuration its words pass as they are.
    """
    if cors is None:
        return
    for name in {name.lower() for name in headers if name.lower().startswith(PREFIX)}:
        del headers[name]
    is_preflight = (
        request.method == "OPTIONS" and "access-control-request-method" in request.headers
    )
    fields = permission(
        cors,
        request.headers.get("origin"),
        headers.get("allow") if is_preflight else None,
        request.headers.get("access-control-request-headers"),
    )
    for name, value in fields:
        if name.lower() == VARY:
            named = {part.strip().lower() for part in headers.get(VARY, "").split(",")}
            if named.isdisjoint({"origin", "*"}):
                headers.add(name, value)
        else:
            headers[name] = value
