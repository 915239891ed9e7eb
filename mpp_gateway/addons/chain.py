"""The gateway's addons as one: mitmproxy asks every addon it knows for every hook of every flow."""

from typing import Any

from mitmproxy import connection, http
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import layer, server_hooks

HOOKS = (
    "load",
    "configure",
    "running",
    "done",
    "next_layer",
    "client_connected",
    "client_disconnected",
    "server_connected",
    "server_disconnected",
    "requestheaders",
    "request",
    "responseheaders",
    "response",
    "error",
)


class Chain:
    """Calls `links` in order. Whoever composes a chain of their own passes `build_addons()` on."""

    name = "gateway"

    def __init__(self, links: list[Any]) -> None:
        self.links = tuple(links)
        self._calls = {
            hook: tuple(getattr(link, hook) for link in links if hasattr(link, hook))
            for hook in HOOKS
        }

    def load(self, loader: Loader) -> None:
        """Pass it on."""
        self._call("load", loader)

    def configure(self, updated: set[str]) -> None:
        """Pass it on."""
        self._call("configure", updated)

    def running(self) -> None:
        """Pass it on."""
        self._call("running")

    def done(self) -> None:
        """Pass it on."""
        self._call("done")

    def next_layer(self, next_layer: layer.NextLayer) -> None:
        """Pass it on."""
        self._call("next_layer", next_layer)

    def client_connected(self, client: connection.Client) -> None:
        """Pass it on."""
        self._call("client_connected", client)

    async def client_disconnected(self, client: connection.Client) -> None:
        """End what the client has begun; wait for the paid calls that outlive it."""
        for call in self._calls["client_disconnected"]:
            await call(client)

    def server_connected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Pass it on."""
        self._call("server_connected", data)

    def server_disconnected(self, data: server_hooks.ServerConnectionHookData) -> None:
        """Pass it on."""
        self._call("server_disconnected", data)

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Route, charge and aim; a link that raises ends the chain, and so without a verdict."""
        for call in self._calls["requestheaders"]:
            await call(flow)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Charge and aim what depends on the body."""
        for call in self._calls["request"]:
            await call(flow)

    async def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Settle."""
        for call in self._calls["responseheaders"]:
            await call(flow)

    async def response(self, flow: http.HTTPFlow) -> None:
        """Close the books, then comment."""
        for call in self._calls["response"]:
            await call(flow)

    async def error(self, flow: http.HTTPFlow) -> None:
        """Give back or keep the money, then comment."""
        for call in self._calls["error"]:
            await call(flow)

    def _call(self, hook: str, *arguments: Any) -> None:
        for call in self._calls[hook]:
            call(*arguments)
