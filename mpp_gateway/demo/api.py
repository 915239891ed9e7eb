"""A sample API to sell: one answer in JSON, one as a stream. It knows nothing of money."""

import asyncio
from typing import Self

from aiohttp import web

KEY = "key-of-the-sample-api"
TICKS = 5
TICK_S = 0.2


class SampleApi:
    """Serves on a free port of the loopback; refuses whoever lacks its key, as real APIs do."""

    def __init__(self) -> None:
        self.url = ""
        self.calls = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/status", self._status)
        app.router.add_get("/now/{city}", self._now)
        app.router.add_get("/stream", self._stream)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _enter(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise web.HTTPUnauthorized(text="no key")
        self.calls += 1

    async def _status(self, request: web.Request) -> web.Response:
        self._enter(request)
        return web.json_response({"status": "fine"})

    async def _now(self, request: web.Request) -> web.Response:
        self._enter(request)
        city = request.match_info["city"]
        return web.json_response({"city": city, "celsius": len(city) + 10})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        self._enter(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for tick in range(TICKS):
            await response.write(b'data: {"tick": %d}\n\n' % tick)
            await asyncio.sleep(TICK_S)
        return response
