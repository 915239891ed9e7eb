"""`/openapi.json`: the catalog as OpenAPI 3.1.0 with the extensions of the discovery draft.

Source: draft-payment-discovery (`x-payment-info`, `x-service-info`), OpenAPI 3.1.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpp_gateway.discovery.catalog import Catalog, Payment, Shop
from mpp_gateway.discovery.layout import Operation, Parameter, lay_out
from mpp_gateway.discovery.listing import encode, present
from mpp_gateway.discovery.site import ALL, ALL_MARKDOWN, LLMS

BYTES_MAX = 64_000
"""Registries read no more than 64 KB; the document is shorter than this."""
CATEGORIES_MAX = 5
"""What registries take."""
VERSION = "1.0.0"
"""Of the described interface, which has no version of its own. Constant, so that the document
changes only when what is sold does."""
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""What a Path Item Object of OpenAPI 3.1 has room for."""
WITH_BODY = frozenset({"PATCH", "POST", "PUT"})

COMPONENTS: dict[str, Any] = {
    "requestBodies": {
        "Any": {
            "description": "Passed on to the service unread.",
            "content": {"application/json": {"schema": {"type": "object"}}, "*/*": {}},
        }
    },
    "responses": {
        "Free": {"description": "The answer of the service."},
        "Paid": {
            "description": "The answer of the service, paid for.",
            "headers": {
                "Payment-Receipt": {
                    "description": "base64url of a JSON object: method, reference, status, time.",
                    "schema": {"type": "string"},
                }
            },
        },
        "PaymentRequired": {
            "description": "Payment required: the challenges say how to pay.",
            "headers": {
                "WWW-Authenticate": {
                    "description": "One `Payment` challenge for each way to pay.",
                    "required": True,
                    "schema": {"type": "string"},
                }
            },
            "content": {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            },
        },
    },
    "schemas": {
        "Problem": {
            "type": "object",
            "required": ["type", "title", "status"],
            "properties": {
                "type": {"type": "string", "format": "uri"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "hint": {"type": "string"},
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class _Scope:
    """How much is said."""

    descriptions: bool = True
    titles: bool = True
    details: bool = True
    """Operation ids, tags, and the response that is no news: what a buyer can do without."""
    compact: bool = True


def openapi_json(catalog: Catalog, bytes_max: int = BYTES_MAX) -> bytes:
    """Return the document, shorter than `bytes_max`.

    What does not fit goes in this order: white space, descriptions, titles with links to other
    documentation, ids and tags, free operations from the last, paid ones from the last.
    `x-truncated` says what went and where all of it is.
    """
    operations = lay_out(catalog)
    scope = _Scope()
    for scope in (
        _Scope(compact=False),
        _Scope(),
        _Scope(descriptions=False),
        _Scope(descriptions=False, titles=False),
        _Scope(descriptions=False, titles=False, details=False),
    ):
        document = _render(catalog, operations, scope, len(operations))
        if len(document) < bytes_max:
            return document
    # Registries look for what can be paid for: free operations are the first to go.
    ranked = sorted(operations, key=lambda operation: operation.entry.free)
    low, high = 0, len(operations)
    best = _render(catalog, (), scope, len(operations))
    while low + 1 < high:
        middle = (low + high) // 2
        kept = {operation.id for operation in ranked[:middle]}
        listed = [operation for operation in operations if operation.id in kept]
        document = _render(catalog, listed, scope, len(operations))
        if len(document) < bytes_max:
            low, best = middle, document
        else:
            high = middle
    return best


def _render(catalog: Catalog, operations: Sequence[Operation], scope: _Scope, total: int) -> bytes:
    listed = {operation.entry.service for operation in operations}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": present(
            title=catalog.title,
            version=VERSION,
            description=catalog.description if scope.descriptions else None,
        ),
        "x-service-info": _service_info(catalog),
    }
    left_out = _left_out(catalog, scope, len(operations), total)
    if left_out:
        document["x-truncated"] = left_out
    if catalog.site.origin:
        document["servers"] = [{"url": catalog.site.origin}]
    if scope.details:
        document["tags"] = [_tag(shop, scope) for shop in catalog.shops if shop.id in listed]
    document["paths"] = _paths(operations, scope)
    document["components"] = COMPONENTS
    return encode(document, compact=scope.compact)


def _left_out(catalog: Catalog, scope: _Scope, listed: int, total: int) -> dict[str, Any]:
    omitted = [
        name
        for name, is_left_out in (
            ("descriptions", not scope.descriptions),
            ("titles", not scope.titles),
            ("details", not scope.details),
            ("operations", listed < total),
        )
        if is_left_out
    ]
    if not omitted:
        return {}
    counts = {"listed": listed, "total": total}
    return {"omitted": omitted, "operations": counts, "complete": catalog.site.link(ALL)}


def _service_info(catalog: Catalog) -> dict[str, Any]:
    categories = [*catalog.categories, *(c for shop in catalog.shops for c in shop.categories)]
    site = catalog.site
    return present(
        categories=list(dict.fromkeys(categories))[:CATEGORIES_MAX],
        docs={
            "apiReference": site.link(ALL_MARKDOWN),
            "llms": catalog.docs_llms_url or site.link(LLMS),
        },
    )


def _tag(shop: Shop, scope: _Scope) -> dict[str, Any]:
    tag: dict[str, Any] = {"name": shop.id}
    if scope.descriptions and shop.description:
        tag["description"] = shop.description
    if scope.titles:
        tag |= _docs(shop.docs_llms_url)
        tag |= {"x-displayName": shop.title} if shop.title else {}
        tag |= {"x-categories": list(shop.categories)} if shop.categories else {}
    return tag


def _paths(operations: Sequence[Operation], scope: _Scope) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(operation.template, {})
        if operation.shared:
            item.setdefault("parameters", _parameters(operation.shared, scope))
        if operation.method in METHODS:
            item[operation.method.lower()] = _operation(operation, scope)
        else:
            # OpenAPI 3.2 calls this `additionalOperations`; 3.1 has no place for other methods.
            others = item.setdefault("x-additionalOperations", {})
            others[operation.method] = _operation(operation, scope)
    return paths


def _parameters(parameters: Sequence[Parameter], scope: _Scope) -> list[dict[str, Any]]:
    return [
        {
            "name": parameter.name,
            "in": "path",
            "required": True,
            **present(description=parameter.description if scope.descriptions else None),
            "schema": {"type": "string"},
        }
        for parameter in parameters
    ]


def _operation(operation: Operation, scope: _Scope) -> dict[str, Any]:
    entry = operation.entry
    members: dict[str, Any] = {}
    if scope.details:
        members |= {"operationId": operation.id, "tags": [entry.service]}
    if scope.titles:
        members |= present(summary=entry.title) | _docs(entry.docs_llms_url)
    if scope.descriptions:
        members |= present(description=entry.description)
        members |= present(parameters=_parameters(operation.own, scope))
    if operation.method in WITH_BODY:
        members["requestBody"] = {"$ref": "#/components/requestBodies/Any"}
    if entry.free:
        members["responses"] = {"200": {"$ref": "#/components/responses/Free"}}
        return members
    paid = {"200": {"$ref": "#/components/responses/Paid"}} if scope.details else {}
    members["responses"] = {**paid, "402": {"$ref": "#/components/responses/PaymentRequired"}}
    if entry.payments:
        members["x-payment-info"] = {"offers": [_offer(p, scope) for p in entry.payments]}
    if entry.free_calls is not None:
        members["x-free-calls"] = {"count": entry.free_calls.count, "per": entry.free_calls.per}
    return members


def _offer(payment: Payment, scope: _Scope) -> dict[str, Any]:
    """Return an offer with the draft's members and no other: its schema is closed."""
    offer = {
        "intent": payment.intent,
        "method": payment.method,
        "amount": str(payment.amount_minor),
        "currency": payment.currency,
    }
    if scope.descriptions:
        # The draft has no member for the chain, and a token's address alone does not tell it.
        offer["description"] = payment.words
    return offer


def _docs(url: str | None) -> dict[str, Any]:
    return {} if url is None else {"externalDocs": {"url": url}}
