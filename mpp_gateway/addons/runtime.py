"""What the addons of one process share: the live configuration and the engine's caps."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.engine.context import Engine
from mpp_gateway.engine.gate import Gate
from mpp_gateway.engine.limits import Limits
from mpp_gateway.events import Event
from mpp_gateway.gateway.executor import Sink, uptime_ms
from mpp_gateway.gateway.serving import Serving, open_serving
from mpp_gateway.gateway.slots import NO_MODULES, Slots
from mpp_gateway.ledger.database import StoreTooNew, StoreUnavailable
from mpp_gateway.limits.clients import Network
from mpp_gateway.rails import registry
from mpp_gateway.rails.base import RailMisconfigured
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)


CLOSING: set[asyncio.Future[None]] = set()
"""What is being closed in this process; the last addon waits for it before the loop ends."""


def quiet(_: Event) -> None:
    """The sink that keeps nothing."""


class Runtime:
    """`serving` is None until everything is open: until then every request gets 503."""

    def __init__(
        self,
        sink: Sink = quiet,
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
        self.failure: str | None = None
        self._under_way: set[Gate] = set()
        self.idle = asyncio.Event()
        """Set while no matched request has open books; a drain waits for it."""
        self.idle.set()
        self._closing: asyncio.Task[None] | None = None
        self._sink = sink
        self._build_rail = build_rail
        self._ticker = ticker

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

    @property
    def trusted_proxies(self) -> Sequence[Network]:
        """Whose word is taken for who the client is."""
        return self.config.trusted_proxies if self.config else ()

    def begin(self, gate: Gate) -> None:
        """Count a matched request until its books are closed."""
        self._under_way.add(gate)
        self.idle.clear()

    def end(self, gate: Gate) -> None:
        """Stop counting a request. Idempotent."""
        self._under_way.discard(gate)
        if not self._under_way:
            self.idle.set()

    async def open(self) -> None:
        """Open the store and the rails; on failure stay closed and keep the reason in `failure`."""
        if self.config is None or self.serving is not None:
            return
        try:
            self.serving = await open_serving(
                self.config,
                self._sink,
                ticker=self._ticker,
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
            self._closing = asyncio.ensure_future(serving.close())
            CLOSING.add(self._closing)
            self._closing.add_done_callback(CLOSING.discard)

    async def closed(self) -> None:
        """Wait until everything is written down and let go of."""
        self.close()
        if self._closing is not None:
            await self._closing
