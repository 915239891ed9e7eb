"""RFC 3339 date-times as unix seconds. An offset is required: local time names no moment."""

import re
from datetime import UTC, date, datetime, timedelta

from mpp_gateway.protocol.problems import ParseError

_TEXT_CHARS_MAX = 64
_DATE_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]"
    r"([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.[0-9]+)?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_rfc3339(text: str) -> int:
    """Return the unix second of `text`, or raise ParseError.

    A fraction is cut off, so an expiry never lasts longer than it says. A leap second counts as the
    second after it.
    """
    match = _DATE_TIME.fullmatch(text) if len(text) <= _TEXT_CHARS_MAX else None
    if match is None:
        raise ParseError("not an RFC 3339 date-time with an offset")
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    try:
        days = date(year, month, day).toordinal() - _EPOCH_ORDINAL
    except ValueError as error:
        raise ParseError("no such day") from error
    local = ((days * 24 + hour) * 60 + minute) * 60 + second
    if match[7] is None:
        return local
    offset = (int(match[8]) * 60 + int(match[9])) * 60
    return local - offset if match[7] == "+" else local + offset


def format_rfc3339(unix_s: int) -> str:
    """Return `YYYY-MM-DDTHH:MM:SSZ`; raises ValueError outside the years 1 to 9999."""
    try:
        moment = _EPOCH + timedelta(seconds=unix_s)
    except OverflowError as error:
        raise ValueError("a time outside the years 1 to 9999") from error
    return moment.isoformat()[:19] + "Z"
