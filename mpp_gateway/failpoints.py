"""The named points of an exchange at which a test kills the process.

Each is a moment at which the store, the payment network, the upstream or the client knows something
that the others do not know yet. Nothing in the package sets `hook`: no setting and no variable of
the environment can. `tests/support/launcher.py` does, in a process that is there to die.
"""

import enum
from collections.abc import Callable


class FailPoint(enum.StrEnum):
    """Where a process may be when it is killed. What is `before` is not written down yet."""

    COMMITTING = "committing"
    """The store has every change of a batch, in a transaction that is still open."""
    COMMITTED = "committed"
    """The batch is durable, and nobody who asked for it has heard so."""

    BEFORE_CLAIMED = "before claimed"
    AFTER_CLAIMED = "after claimed"
    """Also of a credit, which is spent by being claimed."""
    BEFORE_VERIFIED = "before verified"
    """The rail has checked the proof, and nothing is held."""
    AFTER_VERIFIED = "after verified"
    BEFORE_SETTLING = "before settling"
    AFTER_SETTLING = "after settling"
    """The intention to settle is written down, and the rail is not asked."""
    BEFORE_SETTLED = "before settled"
    """The money has moved, and only the rail knows."""
    AFTER_SETTLED = "after settled"
    BEFORE_RELEASED = "before released"
    AFTER_RELEASED = "after released"
    BEFORE_UNKNOWN = "before unknown"
    AFTER_UNKNOWN = "after unknown"
    BEFORE_CREDITED = "before credited"
    AFTER_CREDITED = "after credited"
    BEFORE_REFUNDING = "before refunding"
    AFTER_REFUNDING = "after refunding"
    """It is written down that money is owed back, and the rail is not asked to pay it."""
    BEFORE_REFUNDED = "before refunded"
    AFTER_REFUNDED = "after refunded"
    BEFORE_DELIVERED = "before delivered"
    AFTER_DELIVERED = "after delivered"
    """The store says that the answer was handed over."""
    TAKEN_UP = "taken up"
    """One exchange that a dead process left open is moved on, in a transaction with others."""

    BEFORE_KEPT = "before kept"
    AFTER_KEPT = "after kept"

    LEASED = "leased"
    """A nonce of the gas key is taken and its transaction stored; nobody has seen it."""
    SENT = "sent"
    """The node was given the transaction; nobody has looked for its block."""
    MINED = "mined"
    """The transaction is in a block, and the store says that it is under way."""
    REPLACED = "replaced"
    """Another transaction of the same nonce is stored; nobody has seen it."""
    RETURNED = "returned"
    """A nonce that nothing was sent under is given back, its signature erased."""
    LOST = "lost"
    """A nonce was used by somebody else; its signature is erased."""

    UPSTREAM_ANSWERED = "upstream answered"
    """The upstream has done the work, and the money of `settle: on_success` is where it was."""
    HEAD_DUE = "head due"
    """The answer may go out, and nothing of it has."""
    BODY_PIECE = "body piece"
    """A piece of the answer's body is about to go out: at the first, the head has."""
    ANSWER_PASSED = "answer passed"
    """The client was sent all of the answer; the request's books are open."""


hook: Callable[[FailPoint], None] | None = None
"""What is told of every point; None, always, but in a process that a test has made to be killed."""


def reach(point: FailPoint) -> None:
    """Note that the process has come to `point`."""
    if hook is not None:
        hook(point)
