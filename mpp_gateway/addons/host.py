"""Fits mitmproxy itself to the gateway: options, layers, connections, start and stop."""

import asyncio
import logging
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from mitmproxy import connection, ctx, exceptions, http
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import layer, mode_specs, server_hooks

from mpp_gateway.addons import sentinel, takeover
from mpp_gateway.addons.inspection import price_text
from mpp_gateway.addons.probe import missing_documents
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.config import EvmMethod, load
from mpp_gateway.config.model import GatewayConfig, Tls
from mpp_gateway.config.values import is_loopback
from mpp_gateway.config.zero import (
    DEFAULT_NETWORK,
    DOCUMENTS,
    MOUNT,
    NETWORKS,
    SERVICE,
    ZeroConfigError,
    ZeroOptions,
    refuse_unread,
    zero_config,
)
from mpp_gateway.engine import backpressure, hooktable
from mpp_gateway.engine.departure import abort_when_stuck, see_off
from mpp_gateway.engine.layers import claim
from mpp_gateway.errors import ConfigError, NotFound
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.machine import Clock, Machine
from mpp_gateway.gateway.slots import Slots
from mpp_gateway.protocol.money import Amount
from mpp_gateway.routing.table import RouteTable

log = logging.getLogger(__name__)

UPSTREAM_CONNECTIONS_MAX = 256
TCP_TIMEOUT_S = 600
TCP_MARGIN_S = 60

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
    "proxy_debug": False,  # it logs what is sent upstream, and with it the secret
    "tls_version_client_min": "TLS1_2",  # mitmproxy's default, and not for `--set` to lower
    "tls_version_server_min": "TLS1_2",
}


GATEWAY_OPTIONS = {
    "gateway_config": ("", "Configuration file of the gateway."),
    "gateway_charge": ("", "Without a file: sell the host of the mode at this price a call."),
    "gateway_recipient": ("", "Without a file: the 0x address that gets the money."),
    "gateway_network": (DEFAULT_NETWORK, f"Without a file: one of {', '.join(NETWORKS)}."),
    "gateway_rpc_url": ("", "Without a file: another node of the network."),
    "gateway_facilitator": ("", "Without a file: another x402 facilitator."),
    "gateway_store": ("gateway.db", "Without a file: where claims and receipts are kept."),
    "gateway_public_url": ("", "Without a file: the address under which buyers reach us."),
}
"""Name, default and help of our options; every one is text."""


_writers: WeakKeyDictionary[connection.Connection, Any] = WeakKeyDictionary()
"""Of the process, for a reload of the script: mitmproxy forgets a writer when it closes it."""


class Host:
    """First of the gateway's addons."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._upstream: str | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.opening: asyncio.Task[None] | None = None
        self._has_taken_over = False

    def load(self, loader: Loader) -> None:
        """Declare our options and set mitmproxy's."""
        for name, (default, text) in GATEWAY_OPTIONS.items():
            loader.add_option(name, str, default, text)
        # What stands already is left alone: some OpenSSL builds make mitmproxy's check of a TLS
        # version raise, even for its own default.
        options = ctx.options
        known = {name: value for name, value in OPTIONS.items() if name in options}
        options.update(**{n: v for n, v in known.items() if getattr(options, n) != v})
        sentinel.post()

    def configure(self, updated: set[str]) -> None:
        """Read what is to be sold; a mistake is an error of the option and stops the start."""
        self._keep_what_we_rely_on(updated)
        if not updated & set(GATEWAY_OPTIONS):
            return
        try:
            self._read_what_is_sold()
        except (ConfigError, ZeroConfigError, OSError) as error:
            if self.opening is None:
                # mitmproxy would print a traceback and go on, with nothing to serve.
                print(f"gateway: {error}", file=sys.stderr, flush=True)
                raise SystemExit(1) from None
            raise exceptions.OptionsError(f"gateway: {error}") from error

    def _read_what_is_sold(self) -> None:
        options = ctx.options
        ours = GATEWAY_OPTIONS.items()
        given = [name for name, (default, _) in ours if getattr(options, name) != default]
        # Deferred: for a script that may yet declare them. Ours has declared all it has.
        refuse_unread(given, options.deferred.keys() - GATEWAY_OPTIONS.keys(), GATEWAY_OPTIONS)
        file, charge = options.gateway_config, options.gateway_charge
        if file:
            self.runtime.configure(load(Path(file), os.environ))
        elif charge:
            self._configure_one_host()

    def _keep_what_we_rely_on(self, updated: set[str]) -> None:
        """Refuse to have an option changed, at mitmweb for instance, that the gateway stands on."""
        if not self._has_taken_over:
            return
        for name in updated & OPTIONS.keys():
            if getattr(ctx.options, name) != OPTIONS[name]:
                raise exceptions.OptionsError(f"{name}: the gateway needs {OPTIONS[name]!r}")
        modes = map(mode_specs.ProxyMode.parse, ctx.options.mode)
        if "mode" in updated and not all(map(takeover.leads_nowhere, modes)):
            raise exceptions.OptionsError("mode: the gateway has taken it over")

    def _outwait_the_slowest_route(self) -> None:
        """Keep mitmproxy from closing a connection, mute, while a slow upstream may yet answer.

        Nor may it close one before `keep_alive_s` has passed.
        """
        config = self.runtime.config
        routes = [r for s in config.services.values() for r in s.routes] if config else []
        waits_s = (max(r.timeouts.first_byte_s, r.timeouts.idle_s) for r in routes)
        slowest_s = max([*waits_s, self.runtime.engine.limits.keep_alive_s])
        ctx.options.update(tcp_timeout=max(TCP_TIMEOUT_S, int(slowest_s) + TCP_MARGIN_S))

    def _configure_one_host(self) -> None:
        options = ctx.options
        self._upstream = takeover.reverse_target(options.mode) or self._upstream
        if self._upstream is None:
            raise ZeroConfigError("mode: gateway_charge sells one host; name it: reverse:https://…")
        config = zero_config(
            ZeroOptions(
                upstream=self._upstream,
                charge=options.gateway_charge,
                recipient=options.gateway_recipient,
                network=options.gateway_network,
                rpc_url=options.gateway_rpc_url,
                facilitator=options.gateway_facilitator,
                store=options.gateway_store,
                public_url=options.gateway_public_url,
            ),
            os.environ,
        )
        table = RouteTable.single(config.services[SERVICE])
        slots = Slots(pre=(documents_take_no_query,))
        self.runtime.configure(config, table, MOUNT, slots)

    def running(self) -> None:
        """Open the gateway. A reload calls this outside the loop's reach: hence a task."""
        sentinel.take_places()
        hooktable.install(ctx.master.addons)
        self.opening = asyncio.ensure_future(self._open())

    async def _open(self) -> None:
        if self.runtime.config is None:
            log.error("nothing to sell: --set gateway_config=FILE, or gateway_charge=…")
            return
        self._outwait_the_slowest_route()
        try:
            config = self.runtime.config
            self._present_certificate(config.tls)
            await takeover.take_over(
                None if self.runtime.mount else config.listen,
                may_be_public=bool(config.tls or config.trusted_proxies or config.allow_insecure),
            )
            self._has_taken_over = True
        except (takeover.TakeoverFailed, OSError, exceptions.OptionsError) as error:
            self.runtime.failure = str(error)
            log.error("the gateway stays closed: %s", error)  # noqa: TRY400 - the text says it
            return
        if self.runtime.mount:
            base = self.runtime.config.services[SERVICE].base_url
            self.runtime.root_documents = await missing_documents(base, DOCUMENTS)
        await self.runtime.open()
        if self.runtime.failure is not None:
            log.error("the gateway cannot open: %s", self.runtime.failure)
        if self.runtime.serving is not None and self.runtime.mount:
            _announce(self.runtime.config, ctx.options.gateway_network)
            _warn_of_clear_text()

    def _present_certificate(self, tls: Tls | None) -> None:
        if tls is None or self.runtime.engine.requires_tls:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="mpp-gateway-")
        takeover.present_certificate(tls, Path(self._folder.name))
        self.runtime.engine.requires_tls = True

    def done(self) -> None:
        """Stop serving. Where the script is only reloaded, its new self takes the next request."""
        if ctx.master.should_exit.is_set():
            self.runtime.close()
        else:
            self.runtime.retire()
        if self._folder is not None:
            self._folder.cleanup()

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """Put our layer under every connection."""
        claim(next_layer, self.runtime.engine)

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Keep tokens out of the flows of requests that the engine has refused."""
        self.runtime.hide_refused(flow)

    def client_connected(self, client: connection.Client) -> None:
        """Lift the stock limit of five upstream connections; put a gate before what is sent us."""
        handler = self._handler(client)
        if handler is not None:
            handler.max_conns = defaultdict(lambda: asyncio.Semaphore(UPSTREAM_CONNECTIONS_MAX))
            io = handler.transports[client]
            _writers[client] = io.writer = backpressure.CountingWriter(io.writer)
            reader = io.reader = backpressure.install(client, io.reader, io.writer)
            patience_s = self.runtime.engine.limits.head_s
            asyncio.get_running_loop().call_later(patience_s, _drop_if_silent, handler, reader)

    async def client_disconnected(self, client: connection.Client) -> None:
        """End what the client has begun; paid calls are let finish first."""
        engine, handler = self.runtime.engine, self._handler(client)
        writer = _writers.pop(client, None)
        if writer is not None:
            abort_when_stuck(writer.transport, engine.limits)
        if handler is not None and not client.error:
            await see_off(handler)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Put a gate before the upstream's bytes, and let nobody wait until it takes ours."""
        handler = self._handler(data.client)
        if handler is not None and (io := handler.transports.get(data.server)):

            async def tell() -> None:
                await handler.server_event(backpressure.UpstreamTakes())

            io.writer = backpressure.install_writer(data.server, io.writer, tell)
            _writers[data.server] = io.writer
            io.reader = backpressure.install(data.server, io.reader)

    def server_disconnected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Let go at once of an upstream that was given up with bytes of ours still to take.

        Closing would wait for it without end.
        """
        writer = _writers.pop(data.server, None)
        if writer is not None and writer.transport.get_write_buffer_size():
            writer.transport.abort()

    @staticmethod
    def _handler(client: connection.Client) -> Any:
        # The one reach into mitmproxy that has no public door; a host test pins it.
        proxyserver = ctx.master.addons.get("proxyserver")
        return proxyserver.connections.get(client.id) if proxyserver else None


def _drop_if_silent(handler: Any, reader: backpressure.GatedReader) -> None:
    """Give up a connection that has sent nothing: a thousand of them would be all we can hold."""
    io = handler.transports.get(handler.client)
    if not reader.has_read and io is not None and io.handler is not None:
        handler.close_connection(handler.client)


def documents_take_no_query(exchange: Exchange, _: Clock) -> Machine[None]:
    """Keep the free documents of one sold host to themselves.

    An upstream with one front controller answers any path by its query: `/llms.txt?page=paid`.
    """
    if exchange.route.free and exchange.match.query is not None:
        raise NotFound("This document takes no query.")
    yield from ()


def _warn_of_clear_text() -> None:
    """Say that everybody on the way can read proofs of payment: no file says that it is meant."""
    servers = ctx.master.addons.get("proxyserver").servers
    if not all(is_loopback(address[0]) for s in servers for address in s.listen_addrs):
        log.warning(
            "clear text for every network of this machine; --listen-host 127.0.0.1 is safer"
        )


def _announce(config: GatewayConfig, network: str) -> None:
    """Say in the log what is sold and by whose services, since nobody wrote it into a file."""
    service = config.services[SERVICE]
    (method,) = config.methods.values()
    assert isinstance(method, EvmMethod)  # `config.zero` writes no other
    price = next(route for route in service.routes if not route.free).prices[0]
    amount = price_text(Amount(price.amount_minor, price.asset))
    log.warning(
        "selling %s at %s a call, paid to %s on chain %d",
        service.base_url,
        amount,
        method.recipient,
        method.chain_id,
    )
    # An own node's address may hold an access key; the public ones of the table do not.
    node = "yours" if ctx.options.gateway_rpc_url else NETWORKS[network].rpc_url
    log.warning(
        "node: %s (gateway_rpc_url); facilitator: %s (gateway_facilitator)",
        node,
        _who_settles(method),
    )


def _who_settles(method: EvmMethod) -> str:
    """Return the addresses of the facilitators, and nothing of how they know us."""
    return ", ".join(one.url for one in method.submit.facilitators) or "none, own gas key"
