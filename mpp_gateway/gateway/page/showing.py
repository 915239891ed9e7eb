"""Who gets the page instead of the problem document, and what the answer is then."""

from collections.abc import Sequence
from dataclasses import replace

from mpp_gateway.gateway.answers import PROBLEM_JSON
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.page.contents import page_of, ways_to_pay
from mpp_gateway.gateway.page.parts import HEADERS
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.media_types import NAMED, ranges, rank
from mpp_gateway.protocol.messages import Answer
from mpp_gateway.protocol.problems import Problem

HTML = "text/html"
JSON = ("application/json", PROBLEM_JSON)
CONTENT_TYPE = "content-type"


def wants_page(accept: Sequence[str]) -> bool:
    """Tell whether a client names HTML and likes it better than JSON, as browsers do.

    `*/*` names nothing: whoever sends that, or no `Accept`, is a program.
    """
    if not any(HTML in value.lower() for value in accept):
        return False
    accepted = ranges(accept)
    html = rank(HTML, accepted)
    return html[1] == NAMED and all(html > rank(name, accepted) for name in JSON)


def shown(
    exchange: Exchange, answer: Answer, challenges: Sequence[str], problem: Problem, now_s: int
) -> Answer:
    """Return a 402 in the form that its client likes: every field stays, the body may be a page.

    `challenges` are the values of its `WWW-Authenticate`.
    """
    if not exchange.snapshot.config.payment_page:
        return answer
    varied = (*answer.headers, ("Vary", "Accept"))
    if wants_page(exchange.head.get_all("accept")):
        ways = ways_to_pay(exchange, Challenge.parse_all(challenges))
        if ways:
            kept = tuple((n, v) for n, v in varied if n.lower() != CONTENT_TYPE)
            page = page_of(exchange, ways, problem, now_s)
            headers = (("Content-Type", "text/html; charset=utf-8"), *kept, *HEADERS)
            return replace(answer, headers=headers, body=page)
    return replace(answer, headers=varied)
