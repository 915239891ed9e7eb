"""Our own answers as bytes and as mitmproxy responses."""

from http import HTTPStatus

from mitmproxy import http

from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.problems import Problem


def reason_phrase(status: int) -> str:
    """Return the reason phrase of a status code, or nothing for one that is not registered."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def problem_bytes(problem: Problem) -> bytes:
    """Return `problem` as a whole HTTP/1.1 response that closes the connection."""
    answer = problem_answer(problem)
    lines = [
        f"HTTP/1.1 {answer.status} {reason_phrase(answer.status)}",
        *(f"{name}: {value}" for name, value in answer.headers),
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + answer.body


def response_of(answer: Answer) -> http.Response:
    """Return `answer` as a mitmproxy response with its length set."""
    response = http.Response.make(answer.status, answer.body, http.Headers())
    response.reason = answer.reason or reason_phrase(answer.status)
    response.headers.clear()
    for name, value in answer.headers:
        response.headers.add(name, value)
    if answer.status not in {204, 304} and "content-length" not in response.headers:
        response.headers["Content-Length"] = str(len(answer.body))
    return response
