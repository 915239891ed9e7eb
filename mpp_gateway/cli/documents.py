"""What `explain` says of the gateway's own documents, which are answered before any route."""

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.discovery import site
from mpp_gateway.discovery.answering import METHODS
from mpp_gateway.discovery.site import Site
from mpp_gateway.gateway.explanation import Explanation


def explain_document(config: GatewayConfig, method: str, target: str) -> Explanation | None:
    """Return the answer of an open gateway to a request for a document, else None."""
    path = Site.of(config).within(target.partition("?")[0])
    if path is None:
        return None
    request = f"{method} {target}"
    if method == "OPTIONS":
        return Explanation(request, 204, reasons=("The gateway answers OPTIONS itself, free.",))
    if method not in METHODS:
        takes = f"It takes {', '.join(METHODS)}."
        return Explanation(
            request, 405, reasons=("This document can be read, nothing else.", takes)
        )
    if path == site.READY:
        reason = "Free: 200 while every payment method is ready, else 503 and which is not."
    elif path == site.ALIVE:
        reason = "Free: 200 as long as the process answers."
    elif path in _documents(config):
        reason = "A document of the gateway's own, free; no route is looked at."
    else:
        return Explanation(
            request, 404, reasons=("No service has this name; /discover lists them.",)
        )
    return Explanation(request, 200, reasons=(reason,))


def _documents(config: GatewayConfig) -> set[str]:
    ids = {f"{site.TREE}{name}{form}" for name in config.services for form in ("", ".md")}
    return {*site.FIXED, site.ALL, site.ALL_MARKDOWN, *ids}
