"""The gate of one request: what the addons decided, held where no copy of a flow can carry it."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from mitmproxy import http
from mitmproxy.connection import Connection

from mpp_gateway.engine.answers import response_of
from mpp_gateway.engine.keeping import Keeping
from mpp_gateway.errors import Forbidden, GatewayFault
from mpp_gateway.gateway import settlement
from mpp_gateway.gateway.answers import problem_answer
from mpp_gateway.gateway.steps import Deliver, Forward
from mpp_gateway.protocol.messages import Answer, RequestHead
from mpp_gateway.protocol.problems import Problem

log = logging.getLogger(__name__)


class Gate:
    """Belongs to one stream. Only the addons set it, and only while their hook runs.

    `forward` is the positive verdict: without it the stream sends nothing upstream.
    `delivery` is the second one: without it nothing of the upstream's answer goes to the client.
    """

    __slots__ = (
        "__weakref__",
        "admitted",
        "began_ms",
        "body",
        "body_limit_bytes",
        "delivered",
        "delivery",
        "entropy",
        "exchange",
        "failure",
        "forward",
        "head",
        "keeping",
        "serving",
    )

    def __init__(self) -> None:
        self.forward: Forward | None = None
        self.delivery: Deliver | Answer | None = None
        self.body_limit_bytes: int | None = None
        """Set while a verdict needs the request body; the most that may be read for it."""
        self.body: bytes | None = None
        self.delivered = False
        """The head of the upstream's answer was handed over for sending."""
        self.keeping: Keeping | None = None
        """Set where a buyer may come back for the answer."""
        self.failure: Problem | None = None
        """Why the upstream gave nothing usable."""
        # What the addons keep between the hooks of one request.
        self.head: RequestHead | None = None
        self.began_ms = 0
        """When the head was received, by the clock of the process's `Reporter`."""
        self.exchange: Any = None
        self.serving: Any = None
        self.entropy = b""
        self.admitted = False

    @property
    def client(self) -> str:
        """Who asks, as limits count it."""
        return self.head.client if self.head else ""

    def fail(self, problem: Problem) -> None:
        """Note what the upstream did wrong; nothing of its answer may be delivered any more."""
        self.delivery = None
        self.failure = problem

    def shut(self) -> None:
        """Withdraw every positive verdict."""
        self.admitted = False
        self.forward = None
        self.delivery = None
        self.body_limit_bytes = None


_gates: WeakKeyDictionary[http.HTTPFlow, Gate] = WeakKeyDictionary()


def install(flow: http.HTTPFlow, gate: Gate) -> None:
    """Tie `gate` to the very object `flow`: a copy, a replay or a loaded flow has none."""
    _gates[flow] = gate


def gate_of(flow: http.HTTPFlow) -> Gate | None:
    """Return the gate of a live flow of ours, or None for any other flow."""
    return _gates.get(flow)


_granted: WeakSet[Connection] = WeakSet()


def grant(connection: Connection) -> None:
    """Let `connection` be opened: a stream with a verdict asked for it."""
    _granted.add(connection)


def is_granted(connection: Connection) -> bool:
    """Whether a stream with a verdict asked for `connection`; no replay or stock layer has."""
    return connection in _granted


type Hook = Callable[[Any, http.HTTPFlow, Gate], Awaitable[None]]


def fail_closed(hook: Hook) -> Callable[[Any, http.HTTPFlow], Awaitable[None]]:
    """Turn any escape from an admission hook into a refusal.

    mitmproxy logs an exception of an addon and lets the request pass: unpaid, and with our key.
    """

    @functools.wraps(hook)
    async def guarded(self: Any, flow: http.HTTPFlow) -> None:
        if flow.response:
            return
        gate = gate_of(flow)
        if gate is None:
            refusal = Forbidden("This request did not come in through the gateway.")
            flow.response = response_of(problem_answer(refusal))
            return
        try:
            await hook(self, flow, gate)
        except Exception:
            log.exception("%s failed; the request is refused", hook.__qualname__)
            await refuse_fault(flow, gate)

    return guarded


async def refuse_fault(flow: http.HTTPFlow, gate: Gate) -> None:
    """Refuse a request for a fault of ours, then tell of it where it is known what was asked."""
    gate.shut()
    flow.response = response_of(problem_answer(GatewayFault()))
    if gate.serving is None or gate.exchange is None:
        return
    executor = gate.serving.executor
    telling = settlement.fault(gate.exchange, executor.clock())
    flow.response = response_of(await executor.run(telling, gate.began_ms))
