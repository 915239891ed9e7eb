"""Problems as answers: the one place where a refusal becomes HTTP."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mpp_gateway.protocol.messages import Answer, Headers
from mpp_gateway.protocol.problems import Problem

PROBLEM_JSON = "application/problem+json"


def problem_answer(
    problem: Problem,
    extra: Iterable[tuple[str, str]] = (),
    challenge_id: str | None = None,
    *,
    members: Mapping[str, Any] | None = None,
) -> Answer:
    """Return `problem` as an uncacheable `application/problem+json` answer (RFC 9457).

    `members` are of this answer alone; none of them replaces one of the problem's own.
    """
    headers: list[tuple[str, str]] = [
        ("Content-Type", PROBLEM_JSON),
        # A cache that kept a 402 would hand one buyer's challenge to another.
        ("Cache-Control", "no-store"),
    ]
    if problem.retry_after_s is not None:
        headers.append(("Retry-After", str(problem.retry_after_s)))
    allow = getattr(problem, "allow", None)
    if allow:
        headers.append(("Allow", ", ".join(allow)))
    headers.extend(extra)
    document = problem.document(challenge_id)
    document |= {n: value for n, value in (members or {}).items() if n not in document}
    body = json.dumps(document, ensure_ascii=False).encode()
    return Answer(problem.status, tuple(headers), body)


def without_body(answer: Answer) -> Answer:
    """Return `answer` as HEAD gets it: the same fields, the same length, no content."""
    headers: Headers = (*answer.headers, ("Content-Length", str(len(answer.body))))
    return Answer(answer.status, headers, b"", reason=answer.reason)
