"""The catalog as JSON: `/discover`, `/discover/{id}` and `/discover/all`."""

import json
from typing import Any

from mpp_gateway.discovery.catalog import Catalog, Entry, Payment, Shop


def listing(catalog: Catalog) -> bytes:
    """Return all services without their routes, as a JSON list."""
    return encode([_summary(catalog, shop) for shop in catalog.shops])


def listing_in_full(catalog: Catalog) -> bytes:
    """Return all services with routes and prices, as a JSON list."""
    return encode([_details(catalog, shop) for shop in catalog.shops])


def service_details(catalog: Catalog, shop: Shop) -> bytes:
    """Return one service with routes and prices, as a JSON object."""
    return encode(_details(catalog, shop))


def encode(value: Any, *, compact: bool = False) -> bytes:
    """Return the same bytes for the same value, for people to read unless `compact`."""
    if compact:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    else:
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    return text.encode("utf-8", "replace")


def present(**members: Any) -> dict[str, Any]:
    """Return the members that have something to say."""
    return {name: value for name, value in members.items() if value not in (None, (), [], {}, "")}


def _summary(catalog: Catalog, shop: Shop) -> dict[str, Any]:
    site = catalog.site
    return present(
        id=shop.id,
        title=shop.title,
        description=shop.description,
        categories=list(shop.categories),
        docsLlmsUrl=shop.docs_llms_url,
        url=f"{site.origin}{shop.mount}" or "/",
        details=site.link(f"/discover/{shop.id}"),
    )


def _details(catalog: Catalog, shop: Shop) -> dict[str, Any]:
    return {**_summary(catalog, shop), "routes": [_route(entry) for entry in shop.entries]}


def _route(entry: Entry) -> dict[str, Any]:
    # `method: null` takes any method; `payment: null` is free. Both are said, never left out.
    payment: dict[str, Any] | None = None
    if not entry.free:
        payment = {"offers": [_offer(p) for p in entry.payments]}
        if (free := entry.free_calls) is not None:
            payment["freeCalls"] = {"count": free.count, "per": free.per}
    return {
        "method": entry.method,
        "path": entry.path,
        **present(
            title=entry.title, description=entry.description, docsLlmsUrl=entry.docs_llms_url
        ),
        "payment": payment,
    }


def _offer(payment: Payment) -> dict[str, Any]:
    return {
        "intent": payment.intent,
        "method": payment.method,
        "amount": str(payment.amount_minor),
        "decimals": payment.decimals,
        "currency": payment.currency,
        **present(chainId=payment.chain_id),
        "price": payment.words,
    }
