"""What the addons of one process share: the live configuration and the engine's caps."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakSet

from mitmproxy import http

from mpp_gateway import events
from mpp_gateway.addons.translation import conceal_tokens, head_of
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.engine.context import Engine
from mpp_gateway.engine.gate import Gate
from mpp_gateway.engine.limits import Limits
from mpp_gateway.events import Event
from mpp_gateway.gateway.executor import new_request_id, wall_clock
from mpp_gateway.gateway.reporting import Reporter, Sink, uptime_ms
from mpp_gateway.gateway.serving import OpenBooks, Serving, open_serving
from mpp_gateway.gateway.slots import NO_MODULES, Slots
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable
from mpp_gateway.protocol.messages import RequestHead
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)


CLOSING: set[asyncio.Future[None]] = set()
"""What is being closed in this process; the last addon waits for it before the loop ends."""
RETIRED: WeakSet[OpenBooks] = WeakSet()
"""What earlier selves of a reloaded script have not finished; a stop waits for none of it."""


class Runtime:
    """`serving` is None until everything is open: until then every request gets 503."""

    def __init__(
        self,
        sink: Sink | None = None,
        build_rail: registry.RailBuilder = registry.build,
        ticker: Callable[[], int] = uptime_ms,
    ) -> None:
        self.config: GatewayConfig | None = None
        self.table: RouteTable | None = None
        self.mount = ""
        self.slots = NO_MODULES
        self.root_documents: frozenset[str] = frozenset()
        """Documents that we serve at the root too, since the upstream has none of that name."""
        self.serving: Serving | None = None
        self.engine = Engine()
        self._takes_tokens = False
        """Whether credentials may hold what is good for more than its one call."""
        self.failure: str | None = None
        self._closing: asyncio.Task[None] | None = None
        self.reporter = Reporter(sink, ticker)
        self._build_rail = build_rail

    def configure(
        self,
        config: GatewayConfig,
        table: RouteTable | None = None,
        mount: str = "",
        slots: Slots = NO_MODULES,
    ) -> None:
        """Take a checked configuration; it is opened when the proxy runs.

        With a `table` of its own one service stands at the root and our documents below `mount`.
        """
        self.config, self.table, self.mount, self.slots = config, table, mount, slots
        self.engine.cors = config.cors
        self._takes_tokens = any(method.kind == "stripe" for method in config.methods.values())
        limits = config.limits
        self.engine.limits = Limits(
            head_bytes=limits.head_bytes,
            head_s=limits.head_s,
            request_body_bytes=limits.request_body_bytes,
            unpaid_bodies=limits.unpaid_bodies,
            unpaid_bodies_per_client=limits.unpaid_bodies_per_client,
            keep_alive_s=limits.keep_alive_s,
            unread_s=limits.unread_s,
            http2_control_frames=limits.http2_control_frames,
        )

    def see(self, flow: http.HTTPFlow, gate: Gate) -> RequestHead:
        """Return the head of a request; the first who asks starts its clock."""
        if gate.head is None:
            gate.head, gate.began_ms = self._head_of(flow), self.reporter.begin()
            if self._takes_tokens:
                conceal_tokens(flow)
        return gate.head

    def hide_refused(self, flow: http.HTTPFlow) -> None:
        """Hide the buyer's token of a request that was refused before anybody looked at its head.

        Its flow is shown and saved like any other, and the token is as good as before.
        """
        if flow.response is not None and self._takes_tokens:
            conceal_tokens(flow)

    def tell(self, gate: Gate, answered: Callable[..., Event]) -> None:
        """Tell the sink of a request that was answered before any stage of the machine saw it."""
        clock = self.serving.executor.clock if self.serving else wall_clock
        request_id, at_s = new_request_id(), clock()
        for event in (events.RequestReceived, answered):
            self.reporter.tell(event(request_id=request_id, at_s=at_s), gate.began_ms)

    def _head_of(self, flow: http.HTTPFlow) -> RequestHead:
        return head_of(flow, self.config.trusted_proxies if self.config else ())

    async def drained(self) -> None:
        """Wait until no matched request has open books."""
        if self.serving is not None:
            await self.serving.books.idle.wait()

    async def open(self) -> None:
        """Open the store and the rails; on failure stay closed and keep the reason in `failure`."""
        if self.config is None or self.serving is not None:
            return
        try:
            self.serving = await open_serving(
                self.config,
                self.reporter,
                build_rail=self._build_rail,
                table=self.table,
                slots=self.slots,
            )
        except (StoreUnavailable, StoreTooNew, RailMisconfigured) as error:
            self.failure = str(error)
            return
        except Exception as error:
            self.failure = str(error)
            log.exception("the gateway cannot open; every request is refused")
            return
        log.info("the gateway is open")

    def close(self) -> None:
        """Stop serving at once; `closed` waits for the money that is under way."""
        serving, self.serving = self.serving, None
        if serving is not None:
            self._close_in(serving.close())

    def retire(self) -> None:
        """Take no new request, for somebody else does; finish those that are under way."""
        serving, self.serving = self.serving, None
        if serving is not None:
            RETIRED.add(serving.books)
            self._close_in(serving.retire())

    def _close_in(self, closing: Coroutine[Any, Any, None]) -> None:
        self._closing = asyncio.ensure_future(closing)
        CLOSING.add(self._closing)
        self._closing.add_done_callback(CLOSING.discard)

    async def closed(self) -> None:
        """Wait until everything is written down and let go of."""
        self.close()
        give_up_retired()
        if self._closing is not None:
            await self._closing


def give_up_retired() -> None:
    """Close what was retired, whatever is open in it: the process ends."""
    for books in list(RETIRED):
        books.give_up()
