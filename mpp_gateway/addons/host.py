"""Fits mitmproxy itself to the gateway: options, layers, connections, start and stop."""

import asyncio
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

from mitmproxy import connection, ctx, exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import layer, server_hooks

from mpp_gateway.addons import sentinel
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.config import load
from mpp_gateway.engine import backpressure
from mpp_gateway.engine.layers import claim
from mpp_gateway.errors import ConfigError

UPSTREAM_CONNECTIONS_MAX = 256

# What the gateway relies on; set here, these win over the user's own flags.
OPTIONS: dict[str, Any] = {
    "connection_strategy": "lazy",  # eager dials the upstream for every unpaid request
    "block_global": False,  # else clients with public addresses are cut off
    "rawtcp": False,
    "websocket": False,
    "keep_host_header": True,
    "validate_inbound_headers": True,
    "stream_large_bodies": None,  # a refused upload would hang its client
    "body_size_limit": None,
}


class Host:
    """First of the gateway's addons."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.opening: asyncio.Task[None] | None = None

    def load(self, loader: Loader) -> None:
        """Declare our options and set mitmproxy's."""
        loader.add_option("gateway_config", str, "", "Configuration file of the gateway.")
        known = {name: value for name, value in OPTIONS.items() if name in ctx.options}
        ctx.options.update(**known)
        sentinel.post()

    def configure(self, updated: set[str]) -> None:
        """Read the configuration file; a mistake in it is an error of the option."""
        if "gateway_config" not in updated or not ctx.options.gateway_config:
            return
        try:
            config = load(Path(ctx.options.gateway_config), os.environ)
        except (ConfigError, OSError) as error:
            raise exceptions.OptionsError(f"gateway_config:\n{error}") from error
        self.runtime.configure(config)

    def running(self) -> None:
        """Open the gateway. A reload calls this outside the loop's reach: hence a task."""
        sentinel.take_places()
        self.opening = asyncio.ensure_future(self.runtime.open())

    def done(self) -> None:
        """Stop serving."""
        self.runtime.close()

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """Put our layer under every connection."""
        claim(next_layer, self.runtime.engine)

    def client_connected(self, client: connection.Client) -> None:
        """Lift the stock limit of five upstream connections; put a gate before what is sent us."""
        handler = self._handler(client)
        if handler is not None:
            handler.max_conns = defaultdict(lambda: asyncio.Semaphore(UPSTREAM_CONNECTIONS_MAX))
            io = handler.transports[client]
            io.reader = backpressure.install(client, io.reader)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Put a gate before the upstream's bytes."""
        handler = self._handler(data.client)
        if handler is not None and (io := handler.transports.get(data.server)):
            io.reader = backpressure.install(data.server, io.reader)

    @staticmethod
    def _handler(client: connection.Client) -> Any:
        # The one reach into mitmproxy that has no public door; a host test pins it.
        proxyserver = ctx.master.addons.get("proxyserver")
        return proxyserver.connections.get(client.id) if proxyserver else None
