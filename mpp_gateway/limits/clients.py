"""Who a request is counted against: an address, or a network that one client has to itself."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network

HOPS_MAX = 16
TEXT_MAX = 128
"""No address is longer, with its port; what is remembered of others' texts is bounded by it."""
REMEMBERED = 4096
HOST_BITS = 64
NOBODY = "unknown"
"""Whose address cannot be read shares one count with all others of the kind."""
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?\Z")


def counted_as(peer: str, forwarded_for: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the name under which the limits count a request; empty: it is not counted.

    `forwarded_for` has the values of X-Forwarded-For. They are read where the peer is trusted, from
    the right to the first address that is not: what stands left of it may be invented.
    """
    address = _address(peer)
    if address is None:
        return NOBODY
    if not _is_in(address, trusted):
        # By the connection alone: a loopback address that somebody reports proves nothing.
        return "" if address.is_loopback else _name(address)
    for hop in reversed(",".join(forwarded_for).rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
        reported = _address(hop.strip())
        if reported is None:
            break
        address = reported
        if not _is_in(address, trusted):
            break
    return _name(address)


def _address(text: str) -> Address | None:
    return _parsed(text) if len(text) <= TEXT_MAX else None


@lru_cache(REMEMBERED)
def _parsed(text: str) -> Address | None:
    match = _WITH_PORT.match(text)
    try:
        address = ip_address((match[1] or match[2]) if match else text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # As a socket for both versions shows IPv4: in one /64 they would be one client.
        return address.ipv4_mapped
    return address


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


@lru_cache(REMEMBERED)
def _name(address: Address) -> str:
    if isinstance(address, IPv4Address):
        return str(address)
    # A /64 is what one line gets: address by address it would be 2^64 clients.
    return f"{IPv6Address(int(address) >> HOST_BITS << HOST_BITS)}/{HOST_BITS}"
