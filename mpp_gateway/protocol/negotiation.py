"""`Accept-Payment`: which offers a client can pay, and in which order it likes them."""

import re
from collections.abc import Sequence

HEADER_CHARS_MAX = 4096
RANGES_MAX = 64
_RANGE = re.compile(
    r"(\*|[a-z][a-z0-9:_-]*)/(\*|[A-Za-z0-9-]+)"
    r"(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)
_QUALITY_MAX = 1000

type _Range = tuple[str, str, int]


def rank(pairs: Sequence[tuple[str, str]], header: str | None) -> list[int]:
    """Return indices into `pairs` (method, intent), best first, without what the client refuses.

    The most specific range decides an offer's quality; ties keep our order. A header that is
    absent, broken, or matches nothing is ignored: a 402 without any offer is forbidden.
    """
    everything = list(range(len(pairs)))
    ranges = _parse(header) if header is not None else None
    if not ranges:
        return everything
    qualities = [_quality(method, intent, ranges) for method, intent in pairs]
    accepted = [index for index in everything if qualities[index] > 0]
    return sorted(accepted, key=lambda index: -qualities[index]) or everything


def _parse(header: str) -> list[_Range] | None:
    if len(header) > HEADER_CHARS_MAX:
        return None
    ranges: list[_Range] = []
    for element in header.split(","):
        text = element.strip(" \t")
        if not text:
            continue
        match = _RANGE.fullmatch(text)
        if match is None or len(ranges) >= RANGES_MAX:
            return None
        ranges.append((match[1], match[2], _thousandths(match[3] or "1")))
    return ranges


def _thousandths(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * _QUALITY_MAX + int(fraction.ljust(3, "0"))


def _quality(method: str, intent: str, ranges: list[_Range]) -> int:
    best = (-1, 0)
    for range_method, range_intent, quality in ranges:
        if range_method in ("*", method) and range_intent in ("*", intent):
            specificity = (range_method != "*") + (range_intent != "*")
            best = max(best, (specificity, quality))
    return best[1]
