"""The ledger beside what the payment networks say by themselves: every payment, and no more.

Four differences count. A payment or a refund that the books have and the network does not; one that
the network has otherwise; money by proof at one of our payees of which the books know nothing, or
say that it never came: a buyer who paid for a call that nobody owes any more; and money that went
back to a buyer of which the books do not say so: a refund that was paid twice.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from itertools import batched, groupby

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.ledger.extract import BookedExchange, Extract
from mpp_gateway.ledger.states import State
from mpp_gateway.rails.statement import Booked, Entry, Shown, Statement, Transferred

CAME_IN = frozenset({State.SETTLED, State.CREDITED, State.REFUNDING, State.REFUNDED})
"""Where the books say that the money came."""
UNDER_WAY = frozenset({State.CLAIMED, State.VERIFIED, State.SETTLING})
AT_ONCE = 8
DIFFERENCES_MAX = 1_000
"""How many differences are told one by one; the others are counted."""
EARLIER_S = 3_600
"""How long before the first exchange somebody else may have submitted its payment."""

type Tick = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing of which the books and the network say something else."""

    kind: str
    """missing, different, refund, extra, unrecorded, overpaid."""
    text: str
    proof_id: str
    reference: str
    amount_minor: int
    asset: str
    exchange_id: str = ""


@dataclass(slots=True)
class Comparison:
    """What came of one rail's comparison."""

    rail: str
    exchanges: int = 0
    found: int = 0
    """Payments of the books that the network shows."""
    refunds: int = 0
    under_way: int = 0
    """Payments that the network shows and the books are at this moment writing down."""
    others: int = 0
    """Other money that came to our payees, by no proof: not the gateway's business."""
    first: int | None = None
    last: int | None = None
    """The places between which everything that came in was looked at."""
    is_by_time: bool = False
    """Whether places are unix times; else they are blocks."""
    differences: list[Difference] = field(default_factory=list)
    differences_found: int = 0

    def note(self, difference: Difference) -> None:
        """Write a difference down."""
        self.differences_found += 1
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(difference)


def recipients(config: GatewayConfig, name: str) -> frozenset[str]:
    """Return who is paid through a method beside its own recipient."""
    prices = [
        price
        for service in config.services.values()
        for route in service.routes
        for price in route.prices
        if price.method_name == name and price.recipient is not None
    ]
    return frozenset(price.recipient for price in prices if price.recipient is not None)


class Reconciliation:
    """Compares one rail's exchanges, as `extract` has them, with its statement.

    `last` is the statement's newest place, asked before the extract was made: what is there later
    the books need not have yet.
    """

    def __init__(
        self,
        rail: str,
        asset: str,
        statement: Statement,
        extract: Extract,
        last: int,
        now_s: int,
    ) -> None:
        self._rail = rail
        self._asset = asset
        self._statement = statement
        self._extract = extract
        self._now_s = now_s
        self._done = Comparison(
            rail, extract.rails().get(rail, 0), last=last, is_by_time=statement.is_by_time
        )
        self._on_its_way: Counter[Transferred] = Counter()
        """Transfers back that a refund which is still owed may be, and no other one."""

    @property
    def so_far(self) -> Comparison:
        """What is known by now, also where `run` could not end."""
        return self._done

    async def run(self, first: int | None, tick: Tick = lambda _: None) -> Comparison:
        """Compare everything; `first` is the place to search from, by default the beginning.

        Errors: `errors.RailUnavailable`, `rails.base.RailMisconfigured`.
        """
        # The statement has to know all of our payees before it reads anything.
        self._statement.watch(
            self._extract.payees(self._rail), self._extract.givers(), self._extract.proofs_of
        )
        start = await self._start() if first is None else first
        await self._statement.read_ahead(start)
        beginning = await self._check_payments(tick)
        await self._check_refunds(tick)
        if first is None and beginning is not None:
            start = min(start, beginning)
        self._done.first = start
        await self._search(self._done.first, self._done.last or 0, tick)
        return self._done

    async def _check_payments(self, tick: Tick) -> int | None:
        """Find what the books say came in; return the first place of it."""
        places = []
        async for entry, group in self._entries(CAME_IN, "reference", tick):
            for exchange in group:
                self._check_payment(exchange, entry)
            if entry.place is not None:
                places.append(entry.place)
                places = [min(places)]
        return min(places, default=None)

    def _check_payment(self, exchange: BookedExchange, entry: Entry) -> None:
        booked = _booked(exchange)
        if not exchange.amount_minor and not exchange.reference:
            self._done.found += 1  # sold by use, and nothing was used: there is nothing to show
            return
        if any(self._statement.shows(shown, booked) for shown in entry.payments):
            self._done.found += 1
            return
        same = [shown for shown in entry.payments if shown.proof_id == exchange.proof_id]
        if same:
            text = f"it paid {same[0].amount_minor} to {same[0].payee}"
            kind = "different"
        else:
            text = entry.why or "the transaction does not show this payment"
            kind = "missing"
        self._note(kind, f"the books say {exchange.state}, but {text}", exchange, entry.reference)

    async def _check_refunds(self, tick: Tick) -> None:
        """Find what the books say was given back."""
        async for entry, group in self._entries({State.REFUNDED}, "refund", tick):
            unshown, left = self._paired(group, entry.transfers)
            self._done.refunds += len(group) - len(unshown)
            others = (f"it sent {t.amount_minor} to {t.target}" for t in left if t.is_from_us)
            why = entry.why or next(others, "the transaction does not show that")
            for exchange in unshown:
                text = f"the books say that the money was given back, but {why}"
                self._note("refund", text, exchange, entry.reference)

    def _paired(
        self, exchanges: list[BookedExchange], transfers: tuple[Transferred, ...]
    ) -> tuple[list[BookedExchange], list[Transferred]]:
        """Return the exchanges that no transfer gives back, and the transfers that are left.

        One transfer gives one payment back, also where two are alike.
        """
        unshown, left = [], list(transfers)
        for exchange in exchanges:
            booked = _booked(exchange)
            back = next((t for t in left if self._statement.gives_back(t, booked)), None)
            if back is None:
                unshown.append(exchange)
            else:
                left.remove(back)
        return unshown, left

    async def _entries(
        self, states: frozenset[State] | set[State], by: str, tick: Tick
    ) -> AsyncIterator[tuple[Entry, list[BookedExchange]]]:
        """Yield what stands under each reference, with the exchanges that name it."""
        asked = 0
        exchanges = self._extract.in_states(self._rail, states, by)
        groups = ((key, list(group)) for key, group in groupby(exchanges, lambda e: getattr(e, by)))
        for batch in batched(groups, AT_ONCE, strict=False):
            entries = await asyncio.gather(*(self._look(reference) for reference, _ in batch))
            for entry, (_, group) in zip(entries, batch, strict=True):
                yield entry, group
            asked += len(batch)
            tick(asked)

    async def _look(self, reference: str) -> Entry:
        if not reference:
            return Entry("", None, why="the books name no transaction")
        entry = await self._statement.under(reference)
        if self._extract.look(self._rail, reference):
            self._judge(entry)
        return entry

    async def _start(self) -> int:
        began_s = self._extract.first_s(self._rail)
        if began_s is None:
            return self._done.last or 0
        return await self._statement.place_at(began_s - EARLIER_S)

    async def _search(self, first: int, last: int, tick: Tick) -> None:
        """Look at everything that came to our payees, whoever sent it, and at what went back."""
        async for place, references in self._statement.movements(first, last):
            tick(place)
            for batch in batched(references, AT_ONCE, strict=False):
                await asyncio.gather(*(self._look_once(reference) for reference in batch))

    async def _look_once(self, reference: str) -> None:
        if self._extract.look(self._rail, reference):
            self._judge(await self._statement.under(reference))

    def _judge(self, entry: Entry) -> None:
        """Hold everything that came in or went back under one reference against the books."""
        self._done.others += entry.others
        self._judge_refunds(entry)
        for shown in entry.payments:
            if shown.is_ours:
                self._judge_payment(shown, entry.reference)

    def _judge_refunds(self, entry: Entry) -> None:
        """Find what went back to buyers, and is no refund that the books have."""
        booked = self._extract.given_back_by(entry.reference)
        unshown, left = self._paired(booked, entry.transfers)
        # What stands in the place of a refund that is not there is told with that.
        missed = len(unshown)
        for sent in left:
            if not sent.is_from_us or sent.source == sent.target:
                continue
            if missed:
                missed -= 1
            elif self._is_on_its_way(sent):
                self._done.under_way += 1
            elif self._extract.has_paid(sent.target):
                text = f"{sent.target} was sent money, and no refund of the books is this one"
                self._done.note(
                    Difference(
                        "overpaid", text, "", entry.reference, sent.amount_minor, self._asset
                    )
                )

    def _is_on_its_way(self, sent: Transferred) -> bool:
        """Tell whether it may be a refund that is owed, and of which the books hear in a moment."""
        owed = self._extract.owed_back(sent.target, sent.source, sent.amount_minor)
        if self._on_its_way[sent] >= owed:
            return False
        self._on_its_way[sent] += 1
        return True

    def _judge_payment(self, shown: Shown, reference: str) -> None:
        exchange = self._extract.of_proof(shown.proof_id)
        if exchange is None:
            text = f"{shown.payee} was paid, and no exchange has this proof"
            self._done.note(
                Difference(
                    "extra", text, shown.proof_id, reference, shown.amount_minor, self._asset
                )
            )
        elif exchange.state in UNDER_WAY and (exchange.due_s or 0) > self._now_s:
            self._done.under_way += 1
        elif exchange.state not in CAME_IN:
            text = f"the books say {exchange.state}, but {shown.payee} was paid"
            self._note("unrecorded", text, exchange, reference)

    def _note(self, kind: str, text: str, exchange: BookedExchange, reference: str) -> None:
        self._done.note(
            Difference(
                kind,
                text,
                exchange.proof_id,
                reference,
                exchange.amount_minor,
                exchange.asset,
                exchange.exchange_id,
            )
        )


def _booked(exchange: BookedExchange) -> Booked:
    return Booked(exchange.proof_id, exchange.account, exchange.payee, exchange.amount_minor)


def not_compared(extract: Extract, compared: set[str]) -> Iterator[tuple[str, int]]:
    """Yield the rails of the books that were not compared, and how many exchanges they have."""
    for rail, count in extract.rails().items():
        if rail not in compared:
            yield rail, count
