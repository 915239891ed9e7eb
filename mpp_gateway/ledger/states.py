"""Where the money of an exchange can be, and which ways lead from there (architecture 4.3)."""

import enum


class State(enum.StrEnum):
    """Where one exchange stands (architecture 4.3, ADR 0007)."""

    CLAIMED = "claimed"
    VERIFIED = "verified"
    SETTLING = "settling"
    SETTLED = "settled"
    RELEASED = "released"
    REFUNDING = "refunding"
    """Owed back to the buyer: the rail is asked until it says that it was paid back."""
    REFUNDED = "refunded"
    CREDITED = "credited"
    UNKNOWN = "unknown"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CLAIMED: frozenset({State.VERIFIED, State.RELEASED}),
    State.VERIFIED: frozenset({State.SETTLING, State.RELEASED}),
    State.SETTLING: frozenset({State.SETTLED, State.RELEASED, State.UNKNOWN}),
    State.UNKNOWN: frozenset({State.CREDITED, State.RELEASED}),
    State.SETTLED: frozenset({State.CREDITED, State.REFUNDING}),
    # Only a released or a credited exchange may be opened again, by the same credential for the
    # same route: a released one starts over, a credited one is already paid.
    State.RELEASED: frozenset({State.CLAIMED}),
    State.CREDITED: frozenset({State.SETTLED}),
    State.REFUNDING: frozenset({State.REFUNDED}),
    State.REFUNDED: frozenset(),
}

LEFT_OPEN = {
    State.CLAIMED: State.RELEASED,
    State.VERIFIED: State.RELEASED,
    State.SETTLING: State.UNKNOWN,
    State.SETTLED: State.CREDITED,
}
"""What becomes of an exchange whose process is gone: only the rail knows about a settlement."""


WAYS_OUT: dict[State, dict[State, tuple[State, ...]]] = {
    State.RELEASED: {
        State.CLAIMED: (State.RELEASED,),
        State.VERIFIED: (State.RELEASED,),
        State.SETTLING: (State.RELEASED,),
        State.UNKNOWN: (State.RELEASED,),
    },
    State.UNKNOWN: {State.SETTLING: (State.UNKNOWN,)},
    State.REFUNDING: {State.SETTLED: (State.REFUNDING,)},
    State.CREDITED: {
        State.SETTLING: (State.UNKNOWN, State.CREDITED),
        State.UNKNOWN: (State.CREDITED,),
        State.SETTLED: (State.CREDITED,),
    },
}
"""Where a request that ends knows its money to be, and how an attempt gets there from wherever the
store has it: the last moves may be written or not, for the store did not answer."""


POSTING = frozenset({(State.SETTLING, State.SETTLED), (State.UNKNOWN, State.CREDITED)})
"""The moves that may be about less than was held; all others are about what they found."""


PAID = frozenset({State.SETTLED, State.CREDITED, State.REFUNDING})
"""Where the money is with the seller: what went there after a balance was read is not in it."""
