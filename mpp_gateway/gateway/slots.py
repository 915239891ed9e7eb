"""Where modules plug into a request. Empty unless a snapshot names some; each has one place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpp_gateway.gateway.machine import Clock, Machine
from mpp_gateway.gateway.steps import Deliver
from mpp_gateway.protocol.messages import Answer

if TYPE_CHECKING:
    from mpp_gateway.gateway.exchange import Exchange

type Pre = Callable[["Exchange", Clock], Machine[None]]
"""Runs on a matched request before its money is looked at; raises a Problem to refuse it."""
type Stream = Callable[["Exchange", bytes], bytes]
"""Gets each piece of the answer's body, and `b""` at its end; returns what goes on. Never waits."""
type Post = Callable[["Exchange", Deliver | Answer], Deliver | Answer]
"""Gets every answer to a matched request, the refusals too; returns what is sent."""


@dataclass(frozen=True, slots=True)
class Slots:
    """The modules of one snapshot, in the order in which they run."""

    pre: tuple[Pre, ...] = ()
    stream: tuple[Stream, ...] = ()
    post: tuple[Post, ...] = ()

    def posted[A: Deliver | Answer](self, exchange: "Exchange", answer: A) -> A | Deliver | Answer:
        """Return `answer` as the modules let it go."""
        result: A | Deliver | Answer = answer
        for module in self.post:
            result = module(exchange, result)
        return result


NO_MODULES = Slots()
"""What a configuration without modules has."""
