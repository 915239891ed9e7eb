"""What every chain rail says while its network is silent, and how long it waits for a block."""

import itertools
from collections.abc import Iterator

from mpp_gateway.errors import RailUnavailable, SettlementUnknown

_FIRST_MS = (50, 50, 100, 100, 200, 200)


def waits_ms(total_ms: int, longest_ms: int) -> Iterator[int]:
    """Yield waits that grow to `longest_ms` and add up to about `total_ms`."""
    waited_ms = 0
    for wait_ms in itertools.chain(_FIRST_MS, itertools.repeat(longest_ms)):
        if waited_ms >= total_ms:
            return
        yield wait_ms
        waited_ms += wait_ms


def unchecked(why: str, retry_after_s: int) -> RailUnavailable:
    """Return what is said where a payment could not be looked at, before anything was done."""
    return RailUnavailable(
        "The payment could not be checked; nothing was charged.",
        private=why,
        retry_after_s=retry_after_s,
    )


def may_be_paid(why: str, retry_after_s: int) -> SettlementUnknown:
    """Return what is said where money may have moved: a refusal would ask for it a second time."""
    return SettlementUnknown(
        "The payment may have been made; do not pay again.",
        private=why,
        retry_after_s=retry_after_s,
    )
