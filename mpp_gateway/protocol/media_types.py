"""`Accept`: how well a client likes a media type (RFC 9110 section 12.5.1)."""

import re
from collections.abc import Sequence

FULL = 1000
"""Quality 1, in thousandths."""
NAMED = 2
"""How exactly a type is meant that is written out."""
_QUALITY = re.compile(r"(?:0(?:\.([0-9]{0,3}))?|1(?:\.0{0,3})?)\Z")

type Rank = tuple[int, int]
"""Quality in thousandths, then how exactly the type was named: 2 type, 1 `text/*`, 0 `*/*`."""


def ranges(accept: Sequence[str]) -> dict[str, int]:
    """Return the qualities by media range; what does not parse is as if it had not been sent."""
    found: dict[str, int] = {}
    for element in ",".join(accept).split(","):
        name, *parameters = (part.strip() for part in element.lower().split(";"))
        quality: int | None = FULL
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                quality = _quality(value.strip())
        if name and quality is not None:
            found.setdefault(name, quality)
    return found or {"*/*": FULL}


def rank(name: str, accepted: dict[str, int]) -> Rank:
    """Return how well the media type `name` is liked, by the ranges of a client."""
    family = name.partition("/")[0] + "/*"
    for exactness, spelled in ((NAMED, name), (1, family), (0, "*/*")):
        if spelled in accepted:
            return (accepted[spelled], exactness) if accepted[spelled] else (0, 0)
    return (0, 0)


def _quality(text: str) -> int | None:
    match = _QUALITY.match(text)
    if match is None:
        return None
    return FULL if text.startswith("1") else int((match[1] or "").ljust(3, "0"))
