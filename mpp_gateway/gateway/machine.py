"""The small grammar of the sans-io stages: yield an effect, get its reply, keep the time."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from mpp_gateway.events import Event
from mpp_gateway.gateway.steps import Effect, Emit, GiveUp, Move, Reply
from mpp_gateway.ledger.book import Turn
from mpp_gateway.ledger.states import State
from mpp_gateway.protocol.messages import Headers
from mpp_gateway.protocol.problems import Problem

type Machine[T] = Generator[Effect, Reply, T]


@dataclass(slots=True)
class Clock:
    """The time as the machine was last told it, in unix seconds."""

    now_s: int


def perform(clock: Clock, effect: Effect) -> Machine[Any]:
    """Yield `effect` and return what it came to; the clock follows."""
    reply = yield effect
    clock.now_s = reply.now_s
    return reply.value


def emit(event: Event) -> Machine[None]:
    """Tell the sink of `event`."""
    yield Emit(event)


def move(
    turn: Turn,
    before: State,
    after: State,
    clock: Clock,
    *,
    reference: str | None = None,
    receipt: Headers | None = None,
    detail: str = "",
    due_s: int | None = None,
    amount_minor: int | None = None,
    owed_minor: int | None = None,
) -> Machine[bool]:
    """Write down a move of the exchange; False if somebody else made it."""
    effect = Move(turn, before, after, reference, receipt, detail, due_s, amount_minor, owed_minor)
    moved: bool = yield from perform(clock, effect)
    return moved


def give_up(
    turn: Turn,
    after: State,
    clock: Clock,
    *,
    reference: str | None = None,
    receipt: Headers | None = None,
    detail: str = "",
    amount_minor: int | None = None,
    told: tuple[Event, ...] = (),
) -> Machine[bool]:
    """Write down where the money of an ending request is, now or when the store takes it.

    Then, and only if it was ours to say, the sink is `told`.
    """
    effect = GiveUp(turn, after, reference, receipt, detail, amount_minor, told)
    given: bool = yield from perform(clock, effect)
    return given


class Pending[T]:
    """A stage that waits for an effect: `begin` starts it, `resume` goes on with the reply.

    The pair is the whole interface of a host that wants no generators; `result` is set at the end.
    """

    def __init__(self, machine: Machine[T]) -> None:
        self._machine = machine
        self.result: T | None = None
        self.done = False

    def begin(self) -> Effect | None:
        """Return the first effect, or None when the stage ended without one."""
        return self._advance(None)

    def resume(self, reply: Reply | Problem) -> Effect | None:
        """Go on with what the effect came to; a Problem is raised into the stage."""
        return self._advance(reply)

    def _advance(self, reply: Reply | Problem | None) -> Effect | None:
        try:
            if reply is None:
                return next(self._machine)
            if isinstance(reply, Problem):
                return self._machine.throw(reply)
            return self._machine.send(reply)
        except StopIteration as end:
            self.done = True
            self.result = end.value
            return None
