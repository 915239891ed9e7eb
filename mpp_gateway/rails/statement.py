"""What a payment network says by itself about money that came in, to hold the books against."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

type ProofsOf = Callable[[str], Iterable[str]]
"""The proofs of the books that begin with a text."""


class NoStatement(Exception):
    """This rail cannot look at its network; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Booked:
    """A payment as the ledger has it. `payee` is empty where the ledger does not say."""

    proof_id: str
    account: str
    payee: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """Money that went from one purse to another by no proof, as the network shows it."""

    source: str
    target: str
    amount_minor: int
    is_from_us: bool = False
    """Whether it left an account from which we give money back."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A payment by proof, as the network shows it."""

    proof_id: str
    payee: str
    amount_minor: int
    is_ours: bool
    """Whether the payee is one of ours."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the network has under one reference."""

    reference: str
    place: int | None
    """Where it stands (a block, a line); None where there is nothing."""
    payments: tuple[Shown, ...] = ()
    transfers: tuple[Transferred, ...] = ()
    others: int = 0
    """Other money that came to us there, by no proof."""
    why: str = ""
    """Why nothing was paid there, in words."""


class Statement(Protocol):
    """The account of one rail, as its network keeps it; moves nothing.

    Errors of every question: `errors.RailUnavailable`, `rails.base.RailMisconfigured`.
    """

    is_by_time: bool
    """Whether places are unix times; else they are blocks of a chain."""

    async def newest(self) -> int:
        """Return the last place that is certain by now."""
        ...

    async def place_at(self, unix_s: int) -> int:
        """Return a place before which nothing happened at `unix_s` or later."""
        ...

    async def read_ahead(self, first: int) -> None:
        """Read at once what there is from a place on, where that is better than one by one."""
        ...

    async def under(self, reference: str) -> Entry:
        """Return what stands under a reference."""
        ...

    def shows(self, shown: Shown, booked: Booked) -> bool:
        """Tell whether this is the payment of the books: proof, payee and amount."""
        ...

    def gives_back(self, transferred: Transferred, booked: Booked) -> bool:
        """Tell whether a transfer gives this very payment back, or one like it."""
        ...

    def watch(self, payees: frozenset[str], givers: frozenset[str], proofs_of: ProofsOf) -> None:
        """Count these among ours too, beside those of the configuration, from here on.

        `payees` are paid, and from `givers` money is given back. Where a network shows less of a
        proof than its name, `proofs_of` has the names.
        """
        ...

    def movements(self, first: int, last: int) -> AsyncIterator[tuple[int, tuple[str, ...]]]:
        """Yield how far it is searched by now, and the references in that under which money came
        to our payees or left our givers."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
