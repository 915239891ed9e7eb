"""Redirects of an upstream, as seen from the client's side of the gateway."""

from urllib.parse import urlsplit

from mpp_gateway.config.model import BaseUrl


def rewrite_location(value: str, base: BaseUrl, mount: str) -> str:
    """Return `value` pointing at the gateway where it pointed into the upstream, else unchanged.

    A redirect is never followed here: what it leads to has a price of its own. `mount` is the path
    under which clients see the upstream's base URL.
    """
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        return value
    if parts.scheme or parts.netloc:
        scheme = parts.scheme or base.scheme
        default = {"http": 80, "https": 443}.get(scheme)
        if (parts.hostname, port or default, scheme) != (base.host, base.port, base.scheme):
            return value
    elif not value.startswith("/"):
        return value
    path = parts.path or "/"
    if base.path and path != base.path and not path.startswith(base.path + "/"):
        return value
    # One slash: `//evil.example` would lead a client away under our name.
    suffix = "/" + path[len(base.path) :].lstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return f"{mount}{suffix}{query}{fragment}"
