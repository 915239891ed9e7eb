"""JSON or markdown? What the client asks for first, then what kind of client it is."""

import re
from collections.abc import Sequence

from mpp_gateway.protocol.media_types import ranges, rank

JSON = "application/json"
AGENTS = (
    # assistants and their crawlers
    "anthropic-ai",
    "Bytespider",
    "CCBot",
    "ChatGPT-User",
    "Claude-SearchBot",
    "Claude-User",
    "Claude-Web",
    "ClaudeBot",
    "cohere-ai",
    "DuckAssistBot",
    "Google-Extended",
    "GPTBot",
    "Meta-ExternalAgent",
    "MistralAI-User",
    "OAI-SearchBot",
    "Perplexity-User",
    "PerplexityBot",
    # terminals
    "curl",
    "HTTPie",
    "mppx",
    "Wget",
    "xh",
)
"""Products that read markdown rather than JSON, when their `Accept` leaves it open."""

_AGENT = re.compile(
    r"(?<![A-Za-z0-9-])(?:" + "|".join(map(re.escape, AGENTS)) + r")(?![A-Za-z0-9-])",
    re.IGNORECASE,
)


def choose(types: Sequence[str], accept: Sequence[str], user_agent: str) -> str:
    """Return one of `types`: JSON, or the first of the others that the client likes best.

    The quality in `Accept` decides, then how exactly the type is named there, then the user agent;
    a client that accepts none of them gets what it would get without `Accept` (RFC 9110 section
    12.5.1).
    """
    accepted = ranges(accept)
    ranks = {name: rank(name, accepted) for name in types}
    others = [name for name in types if name != JSON]
    best = max(others, key=lambda name: ranks[name])
    if ranks[JSON] == ranks[best]:
        return best if is_agent(user_agent) else JSON
    return JSON if ranks[JSON] > ranks[best] else best


def is_agent(user_agent: str) -> bool:
    """Tell whether a `User-Agent` names an AI agent or a terminal client."""
    return _AGENT.search(user_agent) is not None
