"""Which requests discovery answers, and with what."""

import re
from collections.abc import Callable
from functools import partial

from mpp_gateway.discovery import health
from mpp_gateway.discovery.documents import Document, Documents, Page
from mpp_gateway.discovery.health import RuntimeState
from mpp_gateway.discovery.site import ALIVE, READY
from mpp_gateway.errors import MethodNotAllowed, NotFound
from mpp_gateway.events import Event, GatewayAnswered, RequestRefused
from mpp_gateway.gateway.answers import problem_answer, without_body
from mpp_gateway.protocol.messages import Answer, Headers, RequestHead

METHODS = ("GET", "HEAD", "OPTIONS")
CACHE = "public, max-age=300"
"""The draft's figure: prices may be five minutes old, the 402 is right in any case."""
ANY_ORIGIN: Headers = (("Access-Control-Allow-Origin", "*"),)
"""The documents are public and the same for everybody, so every page may read them."""
PREFLIGHT: Headers = (
    *ANY_ORIGIN,
    ("Access-Control-Allow-Methods", "GET, HEAD"),
    ("Access-Control-Allow-Headers", "*"),
    ("Access-Control-Max-Age", "86400"),
)
_REFUSALS = {problem.status: problem.slug for problem in (NotFound, MethodNotAllowed)}
_ENTITY_TAG = re.compile(r'(?:W/)?("[^"]*")')


def answer(documents: Documents, head: RequestHead, state: RuntimeState) -> Answer | None:
    """Return the answer to a request for a document or for the gateway's health, else None.

    While the gateway is not open only health is answered here: documents would be empty.
    """
    path = documents.site.within(head.target.partition("?")[0])
    if path is None:
        return None
    if path in {ALIVE, READY}:
        found = health.alive() if path == ALIVE else health.ready(state)
    elif documents.snapshot is None:
        return None
    else:
        page = documents.pages.get(path)
        if page is None:
            problem = NotFound("No service has this name; /discover lists them.")
            found = problem_answer(problem, ANY_ORIGIN)
        else:
            found = _document(page, head)
    if head.method == "GET":
        return found
    if head.method == "HEAD":
        return without_body(found) if found.body else found
    if head.method == "OPTIONS":
        return Answer(204, (("Allow", ", ".join(METHODS)), *PREFLIGHT))
    return problem_answer(
        MethodNotAllowed(METHODS, "This document can be read, nothing else."), ANY_ORIGIN
    )


def told(documents: Documents, head: RequestHead, found: Answer) -> Callable[..., Event]:
    """Return what a sink is told of an answer of ours; it lacks the request's id and the time."""
    refused = _REFUSALS.get(found.status)
    if refused is not None:
        return partial(RequestRefused, slug=refused, status=found.status)
    path = documents.site.within(head.target.partition("?")[0]) or ""
    # What a client asks for is no name of ours before there is such a page.
    is_known = path in documents.pages or path in {ALIVE, READY}
    return partial(GatewayAnswered, route=path if is_known else "", status=found.status)


def _document(page: Page, head: RequestHead) -> Answer:
    document = page.choose(head.get_all("accept"), head.get("user-agent") or "")
    headers: Headers = (("Cache-Control", CACHE), ("ETag", document.etag), *ANY_ORIGIN)
    if page.is_negotiated:
        headers = (*headers, ("Vary", "Accept, User-Agent"))
    if _is_known(document, head.get_all("if-none-match")):
        return Answer(304, headers)
    described = (("Content-Type", document.content_type), *headers)
    # Titles are free text: a browser must not take them for HTML.
    return Answer(200, (*described, ("X-Content-Type-Options", "nosniff")), document.body)


def _is_known(document: Document, conditions: tuple[str, ...]) -> bool:
    """Compare with `If-None-Match`, weakly as RFC 9110 section 13.1.2 asks."""
    text = ",".join(conditions)
    return text.strip() == "*" or document.etag in _ENTITY_TAG.findall(text)
