"""The operator's own Python on a request or an answer, kept to what it may change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpp_gateway.protocol.messages import Headers
from mpp_gateway.upstream.hygiene import request_headers

FORBIDDEN_IN_TARGET = frozenset(" \t\r\n\\#")


class RewriteError(Exception):
    """A hook returned something that must not go on the wire."""


@dataclass(frozen=True, slots=True)
class HookContext:
    """What a hook is told about the call."""

    request_id: str
    service: str
    route: str
    params: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RewrittenRequest:
    """The request for the upstream, without its secret and without its destination."""

    method: str
    target: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class RewrittenResponse:
    """The upstream's head on its way to the client; the receipt is added afterwards."""

    status: int
    headers: Headers


type Hook = Callable[..., Any]


def rewrite_request(
    hook: Hook | None, request: RewrittenRequest, context: HookContext
) -> RewrittenRequest:
    """Return what `hook` made of `request`. Host, port and scheme are not a hook's to change."""
    if hook is None:
        return request
    result = hook(request, context)
    if not isinstance(result, RewrittenRequest):
        raise RewriteError("rewrite_request must return the request it was given, changed or not")
    if not result.target.startswith("/") or FORBIDDEN_IN_TARGET & set(result.target):
        raise RewriteError("rewrite_request returned a request target that is not a path")
    # `Authorization` is the hook's own, or the client's where the upstream knows its callers.
    kept = request_headers(tuple((n, v) for n, v in result.headers if n.lower() != "authorization"))
    added = tuple((n, v) for n, v in result.headers if n.lower() == "authorization")
    return RewrittenRequest(result.method, result.target, (*kept, *added))


def rewrite_response(
    hook: Hook | None, response: RewrittenResponse, context: HookContext
) -> RewrittenResponse:
    """Return what `hook` made of the answer's head."""
    if hook is None:
        return response
    result = hook(response, context)
    if not isinstance(result, RewrittenResponse) or not 200 <= result.status <= 599:
        raise RewriteError("rewrite_response must return the response it was given")
    return result
