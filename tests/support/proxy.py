"""A real mitmproxy with the gateway's addons, on a real port, in a thread of its own."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mitmproxy import options
from mitmproxy.tools.dump import DumpMaster

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.config import load_text
from tests.support.authority import share_authority

SECRET = "test-secret-test-secret-test-secret-0123"
START_S = 60
STOP_S = 60
"""Closing waits for the money that is under way."""


class Proxy:
    """The running proxy. `runtime` is live; touch it only through `call`."""

    def __init__(self, runtime: Runtime, addons: Sequence[Any], mode: str, **extra: Any) -> None:
        self.runtime = runtime
        self.addons = list(addons)
        self.mode = mode
        share_authority()
        self.extra = extra
        self.port = 0
        self.log: list[str] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.master: DumpMaster | None = None
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def orphans(self) -> int:
        """How many paid calls outlive their clients now."""
        return len(self.runtime.engine.departures)

    def start(self) -> "Proxy":
        self._thread.start()
        assert self._ready.wait(START_S), "\n".join(["the proxy did not start", *self.log[-20:]])
        if self._error:
            raise self._error
        return self

    @property
    def is_stopped(self) -> bool:
        return self.loop is not None and self.loop.is_closed()

    def stop(self) -> None:
        if self.loop and self.master and not self.is_stopped:
            self.loop.call_soon_threadsafe(self.master.shutdown)
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the proxy did not stop"

    def call[T](self, function: Callable[[], Any]) -> Any:
        """Run `function` (a coroutine function or a plain one) on the proxy's loop."""

        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        assert self.loop
        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(START_S)

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001 - told to whoever starts the proxy
            if not self._ready.is_set():  # what has started may end: `is_stopped` says so
                self._error = error
            self._ready.set()

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        opts = options.Options(mode=[self.mode], listen_host="127.0.0.1", listen_port=0)
        self.master = DumpMaster(opts, with_termlog=False, with_dumper=False)
        collector = _Collector(self.log)
        logging.getLogger().addHandler(collector)
        for place, addon in enumerate(self.addons):
            self.master.addons.add(addon)
            self.master.addons.chain.remove(addon)
            self.master.addons.chain.insert(place, addon)
        if self.extra:
            opts.update(**self.extra)
        self.master.addons.add(_Ready(self))
        try:
            await self.master.run()
            await self.runtime.closed()
        finally:
            logging.getLogger().removeHandler(collector)


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class _Ready:
    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    async def running(self) -> None:
        proxy = self.proxy
        if proxy.runtime.config is not None:
            await proxy.addons[0].opening
        servers = proxy.master.addons.get("proxyserver").servers
        (instance,) = servers
        proxy.port = instance.listen_addrs[0][1]
        proxy._ready.set()


def config_text(services: str, methods: str = "", *, store: Path | str, more: str = "") -> str:
    """Return a configuration file around `services` and `methods` (YAML blocks)."""
    lines = [
        "realm: 127.0.0.1",
        f"secret_key: {SECRET}",
        f"store: {store if isinstance(store, str) else f'sqlite:///{store}'}",
        more,
        f"methods:\n{methods}" if methods else "",
        f"services:\n{services}",
    ]
    return "\n".join(line for line in lines if line)


@contextmanager
def running(
    text: str,
    *,
    runtime: Runtime | None = None,
    mode: str = "reverse:http://127.0.0.1:1",
    addons: Callable[[Runtime], Sequence[Any]] = build_addons,
    environ: dict[str, str] | None = None,
    **options_: Any,
):
    """Run a gateway with the configuration `text` for the length of the block."""
    runtime = runtime or Runtime()
    runtime.configure(load_text(text, "test.yaml", environ or {}))
    proxy = Proxy(runtime, addons(runtime), mode, **options_)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
