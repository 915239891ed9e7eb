"""JSON or markdown? What the client asks for first, then what kind of client it is."""

import re
from collections.abc import Sequence

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
_QUALITY = re.compile(r"(?:0(?:\.([0-9]{0,3}))?|1(?:\.0{0,3})?)\Z")
FULL = 1000
"""Quality 1, in thousandths."""

type Rank = tuple[int, int]
"""Quality in thousandths, then how exactly the type was named: 2 type, 1 `text/*`, 0 `*/*`."""


def choose(types: Sequence[str], accept: Sequence[str], user_agent: str) -> str:
    """Return one of `types`: JSON, or the first of the others that the client likes best.

    The quality in `Accept` decides, then how exactly the type is named there, then the user agent;
    a client that accepts none of them gets what it would get without `Accept` (RFC 9110 section
    12.5.1).
    """
    ranges = _ranges(accept)
    ranks = {name: _rank(name, ranges) for name in types}
    others = [name for name in types if name != JSON]
    best = max(others, key=lambda name: ranks[name])
    if ranks[JSON] == ranks[best]:
        return best if is_agent(user_agent) else JSON
    return JSON if ranks[JSON] > ranks[best] else best


def is_agent(user_agent: str) -> bool:
    """Tell whether a `User-Agent` names an AI agent or a terminal client."""
    return _AGENT.search(user_agent) is not None


def _ranges(accept: Sequence[str]) -> dict[str, int]:
    """Return the qualities by media range; what does not parse is as if it had not been sent."""
    ranges: dict[str, int] = {}
    for element in ",".join(accept).split(","):
        name, *parameters = (part.strip() for part in element.lower().split(";"))
        quality: int | None = FULL
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        if name and quality is not None:
            ranges.setdefault(name, quality)
    return ranges or {"*/*": FULL}


def _quality(text: str) -> int | None:
    match = _QUALITY.match(text)
    if match is None:
        return None
    return FULL if text.startswith("1") else int((match[1] or "").ljust(3, "0"))


def _rank(name: str, ranges: dict[str, int]) -> Rank:
    family = name.partition("/")[0] + "/*"
    for exactness, spelled in ((2, name), (1, family), (0, "*/*")):
        if spelled in ranges:
            return (ranges[spelled], exactness) if ranges[spelled] else (0, 0)
    return (0, 0)
