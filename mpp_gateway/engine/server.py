"""The gateway without a terminal tool around it: few addons, a drain, one process."""

import asyncio
import contextlib
import errno
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, options
from mitmproxy.addons import core, proxyserver, tlsconfig
from mitmproxy.master import Master

from mpp_gateway.addons import takeover
from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.chain import Chain
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.engine.hooktable import HookTable

LAST_BYTES_S = 0.1
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Each asks for a drain; the last is what a terminal sends that is closed."""


class StartFailed(Exception):
    """The server cannot start; the text says why in one line."""


class Server:
    """Serves one configuration until told to stop."""

    def __init__(self, config: GatewayConfig, runtime: Runtime | None = None) -> None:
        self.config = config
        self.runtime = runtime or Runtime()
        self.runtime.configure(config)
        self.port = 0
        self._master: Master | None = None
        self._draining: asyncio.Task[None] | None = None

    async def run(self, started: Callable[[int], Any], *, drain_s: float = 30.0) -> None:
        """Serve; `started` is called once with the port, when requests are served.

        Errors: `StartFailed`.
        """
        listen = self.config.listen
        _check_address(listen.host, listen.port)
        await self.runtime.open()
        if self.runtime.failure is not None:
            raise StartFailed(self.runtime.failure)
        with _folder() as folder:
            self._master = self._build(Path(folder))
            watcher = _Started(self, started, Path(folder))
            self._master.addons.add(watcher)
            loop = asyncio.get_running_loop()
            for number in ENDING:
                loop.add_signal_handler(number, self.drain, drain_s)
            try:
                await self._master.run()
            finally:
                for number in ENDING:
                    loop.remove_signal_handler(number)
                await self.runtime.closed()
        if watcher.failure is not None:
            raise StartFailed(watcher.failure)

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has told it to stop."""
        return self._draining is not None

    def drain(self, deadline_s: float) -> None:
        """Stop listening, finish what is under way, then stop. A second call stops at once."""
        if self._draining is not None and self._master is not None:
            self._master.shutdown()
            return
        self._draining = asyncio.ensure_future(self._drain(deadline_s))

    async def _drain(self, deadline_s: float) -> None:
        master = self._master
        assert master is not None
        master.options.update(server=False)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.runtime.drained(), deadline_s)
        await asyncio.sleep(LAST_BYTES_S)
        master.shutdown()

    def _build(self, folder: Path) -> Master:
        listen = self.config.listen
        master = Master(options.Options())
        master.addons = HookTable(master)
        chain = [
            core.Core(),
            proxyserver.Proxyserver(),
            tlsconfig.TlsConfig(),
            Chain(build_addons(self.runtime)),  # last: it sets options that the others declare
        ]
        master.addons.add(*chain)  # type: ignore[no-untyped-call]
        master.options.update(
            confdir=str(folder),
            mode=[takeover.NOWHERE],
            listen_host=listen.host,
            listen_port=listen.port,
        )
        if self.config.tls is not None:
            # After `confdir`: mitmproxy would make its files in the user's home first.
            try:
                takeover.present_certificate(self.config.tls, folder)
            except (OSError, exceptions.OptionsError) as error:
                raise StartFailed(f"tls: {error}") from error
            self.runtime.engine.requires_tls = True
        return master


class _Started:
    """Last addon: when it runs, the listener is up."""

    def __init__(self, server: Server, started: Callable[[int], Any], folder: Path) -> None:
        self.server = server
        self.started = started
        self.folder = folder
        self.failure: str | None = None

    def running(self) -> None:
        master = self.server._master  # noqa: SLF001 - one class in two halves
        assert master is not None
        (instance,) = master.addons.get("proxyserver").servers
        if not instance.is_running:
            self.failure = str(instance.last_exception or "the listener did not start")
            master.shutdown()
            return
        takeover.forget_keys(self.server.config.tls, self.folder)
        self.server.port = instance.listen_addrs[0][1]
        self.started(self.server.port)


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="mpp-gateway-")
    except OSError as error:
        raise StartFailed(f"no temporary folder can be made: {error}") from error


def _check_address(host: str, port: int) -> None:
    """Say in one line what mitmproxy would say in a traceback."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        cure = " (--port names another)" if error.errno in {errno.EADDRINUSE, errno.EACCES} else ""
        raise StartFailed(f"cannot listen on {host}:{port}: {error.strerror}{cure}") from error
