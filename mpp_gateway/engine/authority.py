"""The host that a request names, in `Host` or in `:authority`."""

import re

from mitmproxy.net.http import url

_SHAPE = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*\])(?::[0-9]*)?")


def is_authority(value: bytes) -> bool:
    """Whether `value` is a host with or without a port (RFC 9110 section 7.2), and nothing more."""
    if not _SHAPE.fullmatch(value):
        return False
    try:
        url.parse_authority(without_empty_port(value), check=True)
    except ValueError:
        return False
    return True


def without_empty_port(value: bytes) -> bytes:
    """Return `value` as mitmproxy reads it: a colon may stand before no port at all."""
    return value if value.endswith(b"]") else value.removesuffix(b":")
