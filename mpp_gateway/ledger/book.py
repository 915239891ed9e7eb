"""The rules of the books, and the books as a plain value: what every store has to do.

`Book` is the ledger without a store. Each store is compared with it, step by step.
"""

import enum
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mpp_gateway.ledger.states import LEFT_OPEN, PAID, POSTING, TRANSITIONS, WAYS_OUT, State


class Claim(enum.Enum):
    """What came of asking for a proof."""

    FRESH = "fresh"
    CREDITED = "credited"
    """The money is ours already and was not used: serve once more, settle nothing."""
    UNKNOWN = "unknown"
    """An earlier attempt to settle has not been resolved; ask the rail, not the buyer."""
    IN_PROGRESS = "in progress"
    EXPIRED = "expired"
    """Too late to pay, and no use of it is on record: only the rail knows whether money moved."""
    SPENT = "spent"
    LAPSED = "lapsed"
    """A credit that nobody asked for in the time that was stated."""
    REFUNDED = "refunded"
    """Given back, or about to be: it buys nothing more."""
    DELIVERED = "delivered"
    """Spent too: on this very request, whose answer was handed over."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim. `exchange_id` names the exchange the proof belongs to."""

    claim: Claim
    exchange_id: str
    attempt: int = 1
    reference: str = ""
    receipt: tuple[tuple[str, str], ...] = ()
    valid_until_s: int = 0
    """The last end of validity that any signature under this proof was shown with."""
    seq: int = 0
    """The journal's last entry at the time of the claim."""
    owed_minor: int | None = None
    """What the rail was asked to move, where that is less than what was presented."""
    was_held: bool = False
    """An earlier attempt has found it good: its money moved after it was shown here, not before."""
    paid_minor: int | None = None
    """What a credit was paid with, which may be less than its proof is good for."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One attempt at one exchange: a move counts only while this attempt is the current one.

    Without the attempt a late writer of an earlier attempt could credit money that a later one
    has spent already, and the buyer would be served twice for it.
    """

    exchange_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """A payment as the books have it: enough for its rail to find it again, or to give it back.

    It holds nothing that could move the payer's money. `account` and `payee` are the canonical
    names of who pays and who is paid.
    """

    proof_id: str
    account: str
    payee: str
    amount_minor: int
    valid_until_s: int
    challenge_id: str | None = None
    reference: str = ""
    """What the rail called the payment when it was settled; empty before."""
    owed_minor: int | None = None
    """What the rail was asked to move, where that is less; None for all of it."""


@dataclass(frozen=True, slots=True)
class Question:
    """What only the rail can tell: what became of a settlement, or whether a refund is paid."""

    turn: Turn
    rail: str
    asset: str
    state: State
    """UNKNOWN or REFUNDING."""
    payment: PaymentRecord
    asked_s: int
    """Since when, in unix seconds."""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a claim writes down: one proof, for one scope, of one payer."""

    exchange_id: str
    proof_id: str
    rail: str
    asset: str
    account: str
    payee: str
    amount_minor: int
    scope: str
    valid_until_s: int
    due_s: int
    """When the process that claims is done with the call, or gone."""
    credit_s: int
    """For how long a paid call that was not delivered may be asked for again."""
    challenge_id: str | None = None
    """An id is used once: a second proof for the same challenge is refused."""
    only_earlier: bool = False
    """Nothing new may be claimed: only a use of the proof that is there already counts."""
    is_tied: bool = False
    """Only the challenge that the proof was first shown with may show it again."""


class IllegalTransition(Exception):
    """The caller asked for a move that the state table does not have: a fault, never a race."""


class OverPosted(Exception):
    """The caller wants to post more than was held: a fault, at the buyer's cost."""


@dataclass(frozen=True, slots=True)
class Line:
    """One move in the journal: the exchange went from one state to another.

    `amount_minor` is what it is about from here on, None for what it was about before: it is said
    where an attempt begins and where less is used than was held.
    """

    seq: int
    exchange_id: str
    attempt: int
    before: State | None
    """None where the exchange began."""
    after: State
    amount_minor: int | None


NEVER_HELD_KEPT_S, HELD_KEPT_S = 2 * 3600, 30 * 24 * 3600
"""How long a release is remembered at most: of a payment that was never found good, or once was."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One exchange as the books have it."""

    request: ClaimRequest
    owner: str
    state: State = State.CLAIMED
    attempt: int = 1
    due_s: int | None = None
    valid_until_s: int = 0
    reference: str = ""
    receipt: tuple[tuple[str, str], ...] = ()
    paid_seq: int = 0
    """The journal's line that last brought its money to the seller."""
    amount_minor: int = 0
    owed_minor: int | None = None
    updated_s: int = 0
    forget_s: int = 0


def standing(lines: Iterable[Line]) -> dict[str, State]:
    """Return where the journal alone says that every exchange stands."""
    return {line.exchange_id: line.after for line in lines}


def balances(lines: Iterable[Line]) -> dict[State, int]:
    """Return how much money is in which state, from the journal alone, in minor units."""
    found: dict[State, int] = defaultdict(int)
    last: dict[str, int] = {}
    for line in lines:
        before_minor = last.get(line.exchange_id, 0)
        minor = before_minor if line.amount_minor is None else line.amount_minor
        found[line.after] += minor
        if line.before is not None:
            found[line.before] -= before_minor
        last[line.exchange_id] = minor
    return {state: minor for state, minor in found.items() if minor}


class Book:
    """The exchanges of one store, in memory; `exchanges.Exchanges` says what is asked of it."""

    def __init__(self, owner: str) -> None:
        self.entries: dict[str, Entry] = {}
        self.lines: list[Line] = []
        self._owner = owner
        self._seq = 0

    def claim(self, request: ClaimRequest, now_s: int) -> Claimed:
        """Bind the proof to one exchange, or say what became of it."""
        proof = request.proof_id
        found = next((e for e in self.entries.values() if e.request.proof_id == proof), None)
        if found is None:
            if request.only_earlier:
                return Claimed(Claim.EXPIRED, "")
            if self._is_taken(request):
                return Claimed(Claim.SPENT, "")
            return self._begin(request, now_s)
        return self._claim_again(found, request, now_s)

    def _claim_again(self, entry: Entry, request: ClaimRequest, now_s: int) -> Claimed:
        key = entry.request.exchange_id
        last_s = max(entry.valid_until_s, request.valid_until_s)
        if not _is_for(entry, request):
            return Claimed(Claim.SPENT, key)
        match entry.state:
            case State.REFUNDING | State.REFUNDED:
                return Claimed(Claim.REFUNDED, key)
            case State.SETTLED if entry.due_s is None:
                return Claimed(Claim.DELIVERED, key, entry.attempt, entry.reference, entry.receipt)
            case State.RELEASED if self._is_taken(request, key):
                return Claimed(Claim.SPENT, key)
            case State.RELEASED if request.only_earlier:
                return Claimed(Claim.EXPIRED, key, was_held=self._was_held(key))
            case State.RELEASED:
                again = replace(request, exchange_id=key)
                minor = request.amount_minor
                entry = replace(entry, request=again, amount_minor=minor, owed_minor=None)
                self._reopen(entry, State.CLAIMED, request.due_s, now_s)
                self.entries[key] = replace(self.entries[key], valid_until_s=last_s)
                held = self._was_held(key)
                return Claimed(Claim.FRESH, key, entry.attempt + 1, seq=self._seq, was_held=held)
            case State.CREDITED if entry.updated_s + request.credit_s <= now_s:
                return Claimed(Claim.LAPSED, key)
            case State.CREDITED:
                self._reopen(entry, State.SETTLED, request.due_s, now_s)
                number = entry.attempt + 1
                paid = Claimed(Claim.CREDITED, key, number, entry.reference, entry.receipt)
                return replace(paid, paid_minor=entry.amount_minor)
            case State.UNKNOWN if is_about(
                request,
                entry.request.asset,
                entry.request.account,
                entry.request.payee,
                entry.amount_minor,
            ):
                owed, number = entry.owed_minor, entry.attempt
                return Claimed(Claim.UNKNOWN, key, number, valid_until_s=last_s, owed_minor=owed)
        return Claimed(Claim.IN_PROGRESS, key, entry.attempt, valid_until_s=last_s)

    def hold(
        self,
        turn: Turn,
        spendable_minor: int | None,
        seen_seq: int,
        now_s: int,
        settled_by_s: int | None = None,
    ) -> bool:
        """Move to VERIFIED if what the payer has not settled, and this price, can be spent.

        On to SETTLING, if it is to be settled at once, by `settled_by_s`.
        """
        entry = self.entries.get(turn.exchange_id)
        if entry is None:
            return False
        price_minor = entry.amount_minor
        others_minor = sum(
            other.amount_minor
            for key, other in self.entries.items()
            if key != turn.exchange_id
            and other.request.account == entry.request.account
            and _counts_as_unpaid(other, seen_seq, now_s)
        )
        spendable = price_minor if spendable_minor is None else spendable_minor
        if others_minor + price_minor > spendable:
            return False
        if not self.move(turn, State.CLAIMED, State.VERIFIED, now_s):
            return False
        if settled_by_s is None:
            return True
        return self.move(turn, State.VERIFIED, State.SETTLING, now_s, due_s=settled_by_s)

    def move(
        self,
        turn: Turn,
        before: State,
        after: State,
        now_s: int,
        *,
        reference: str | None = None,
        receipt: tuple[tuple[str, str], ...] | None = None,
        due_s: int | None = None,
        amount_minor: int | None = None,
        owed_minor: int | None = None,
    ) -> bool:
        """Move from `before` to `after`; False if it is not `turn`'s move."""
        if after not in TRANSITIONS[before]:
            raise IllegalTransition(f"{turn.exchange_id}: {before} -> {after}")
        if amount_minor is not None and ((before, after) not in POSTING or amount_minor < 0):
            said = f"{turn.exchange_id}: {before} -> {after} cannot post {amount_minor}"
            raise IllegalTransition(said)
        if owed_minor is not None and after is not State.SETTLING:
            raise IllegalTransition(f"{turn.exchange_id}: {after} asks for no money")
        entry = self.entries.get(turn.exchange_id)
        if entry is None or (entry.attempt, entry.state) != (turn.attempt, before):
            return False
        if amount_minor is not None and amount_minor > entry.amount_minor:
            raise OverPosted(turn.exchange_id)
        kept_s = entry.due_s if due_s is None else due_s
        self.entries[turn.exchange_id] = replace(
            entry,
            state=after,
            due_s=kept_s if after in LEFT_OPEN else None,
            reference=entry.reference if reference is None else reference,
            receipt=entry.receipt if receipt is None else receipt,
            amount_minor=entry.amount_minor if amount_minor is None else amount_minor,
            owed_minor=entry.owed_minor if owed_minor is None else owed_minor,
            updated_s=now_s,
            forget_s=self._forget_s(entry),
        )
        self._write(turn.exchange_id, before, after, amount_minor)
        return True

    def give_up(
        self,
        turn: Turn,
        after: State,
        now_s: int,
        *,
        reference: str | None = None,
        receipt: tuple[tuple[str, str], ...] | None = None,
    ) -> bool:
        """Bring `turn`, if it is still the current one, to where its money is."""
        entry = self.entries.get(turn.exchange_id)
        if entry is None or entry.attempt != turn.attempt:
            return False
        way = WAYS_OUT[after].get(entry.state, ())
        before = entry.state
        for step in way:
            self.move(turn, before, step, now_s, reference=reference, receipt=receipt)
            before = step
        return bool(way)

    def renew(self, turn: Turn, due_s: int) -> bool:
        """Stay in charge of what `turn` has paid for until `due_s`."""
        return self._set_due(turn, due_s)

    def mark_delivered(self, turn: Turn) -> bool:
        """Note that what `turn` has paid for was handed over."""
        return self._set_due(turn, None)

    def recover(self, is_gone: Callable[[str], bool], now_s: int) -> int:
        """Take up what processes have left of which `is_gone` says that they are."""
        return self._take_up(lambda entry: entry.due_s is not None and is_gone(entry.owner), now_s)

    def sweep(self, now_s: int) -> int:
        """Take up what its process should have been done with."""
        return self._take_up(lambda entry: entry.due_s is not None and entry.due_s < now_s, now_s)

    def purge(self, now_s: int) -> int:
        """Forget releases whose proofs can move no money any more."""
        dead = {
            key
            for key, entry in self.entries.items()
            if entry.state is State.RELEASED and entry.forget_s < now_s
        }
        self.entries = {key: e for key, e in self.entries.items() if key not in dead}
        self.lines = [line for line in self.lines if line.exchange_id not in dead]
        return len(dead)

    def _begin(self, request: ClaimRequest, now_s: int) -> Claimed:
        self.entries[request.exchange_id] = Entry(
            request,
            self._owner,
            due_s=request.due_s,
            valid_until_s=request.valid_until_s,
            amount_minor=request.amount_minor,
            updated_s=now_s,
        )
        self._write(request.exchange_id, None, State.CLAIMED, request.amount_minor)
        return Claimed(Claim.FRESH, request.exchange_id, seq=self._seq)

    def _reopen(self, entry: Entry, after: State, due_s: int, now_s: int) -> None:
        key = entry.request.exchange_id
        self.entries[key] = replace(
            entry,
            state=after,
            attempt=entry.attempt + 1,
            due_s=due_s,
            owner=self._owner,
            updated_s=now_s,
        )
        self._write(key, entry.state, after, entry.amount_minor)

    def _forget_s(self, entry: Entry) -> int:
        held = self._was_held(entry.request.exchange_id)
        kept_s = HELD_KEPT_S if held else NEVER_HELD_KEPT_S
        return min(entry.valid_until_s, entry.updated_s + kept_s)

    def _was_held(self, key: str) -> bool:
        return any(line.exchange_id == key and line.after is State.VERIFIED for line in self.lines)

    def _set_due(self, turn: Turn, due_s: int | None) -> bool:
        entry = self.entries.get(turn.exchange_id)
        if entry is None or (entry.attempt, entry.state) != (turn.attempt, State.SETTLED):
            return False
        if due_s is not None and entry.due_s is None:
            return False
        self.entries[turn.exchange_id] = replace(entry, due_s=due_s)
        return True

    def _take_up(self, is_left: Callable[[Entry], bool], now_s: int) -> int:
        left = [entry for _, entry in sorted(self.entries.items()) if is_left(entry)]
        for entry in left:
            turn = Turn(entry.request.exchange_id, entry.attempt)
            self.move(turn, entry.state, LEFT_OPEN[entry.state], now_s)
        return len(left)

    def _is_taken(self, request: ClaimRequest, but_for: str | None = None) -> bool:
        return request.challenge_id is not None and any(
            entry.request.challenge_id == request.challenge_id and entry.state is not State.RELEASED
            for key, entry in self.entries.items()
            if key != but_for
        )

    def _write(
        self, key: str, before: State | None, after: State, minor: int | None = None
    ) -> None:
        self._seq += 1
        entry = self.entries[key]
        self.lines.append(Line(self._seq, key, entry.attempt, before, after, minor))
        if after in (State.SETTLED, State.CREDITED):
            self.entries[key] = replace(entry, paid_seq=self._seq)


def is_about(
    request: ClaimRequest, asset: str, account: str, payee: str, amount_minor: int
) -> bool:
    """Tell whether a claim is about this very money, from this purse to that one."""
    asked = request.asset, request.account, payee and request.payee, request.amount_minor
    return asked == (asset, account, payee, amount_minor)


def _is_for(entry: Entry, again: ClaimRequest) -> bool:
    """Tell whether a proof is shown for what it was first shown for."""
    first = entry.request
    is_bound = again.is_tied and entry.state is not State.RELEASED
    return first.scope == again.scope and not (
        is_bound and first.challenge_id not in {None, again.challenge_id}
    )


def _counts_as_unpaid(entry: Entry, seen_seq: int, now_s: int) -> bool:
    """Whether its money is promised and not yet gone from the balance that was read."""
    if entry.state in PAID:
        return entry.paid_seq > seen_seq
    is_held = entry.state in {State.VERIFIED, State.SETTLING, State.UNKNOWN}
    return is_held and entry.valid_until_s > now_s
