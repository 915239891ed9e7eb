"""A gateway, its upstream and a toy rail, and one way to call them in either version of HTTP."""

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway.addons.build import build_addons
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.gateway.reporting import Sink, uptime_ms

from .client import RawClient
from .h2client import H2Client
from .proxy import Proxy, config_text, running
from .stores import in_memory
from .toy_rail import TOY_METHOD, ToyRail
from .upstream import OK, Respond, Upstream, upstream

UPSTREAM_SECRET = "marked-upstream-secret"
UPSTREAM_BODY = b"marked-upstream-body"
UPSTREAM_FIELD = "marked-upstream-field"
VERSIONS = ("http/1.1", "h2")
WAIT_S = 60.0
"""Who waits for so long waits in vain: on a laden machine ten seconds are not many."""

ROUTES = """      "GET /free": free
      "POST /free": free
      "PUT /free": free
      "GET /paid": {charge: "0.01"}
      "POST /paid": {charge: "0.01"}
      "PUT /paid": {charge: "0.01"}
      "GET /first": {charge: "0.01", settle: before}
      "POST /digest": {charge: "0.01", digest: true, body_limit_bytes: 100000}"""


@dataclass
class Reply:
    """One answer; `complete` is False where the client can see that it was cut."""

    status: int = 0
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = True

    @property
    def everything(self) -> bytes:
        return repr((self.status, self.fields)).encode() + self.body


@dataclass
class Scene:
    """What a test plays with."""

    proxy: Proxy
    upstream: Upstream
    rail: ToyRail
    store: Path

    @property
    def open_books(self) -> bool:
        """Whether some matched request is not closed yet."""
        return not self.proxy.runtime.serving.books.idle.is_set()

    @property
    def orphans(self) -> int:
        """How many paid calls outlive their clients now."""
        return self.proxy.orphans

    @property
    def port(self) -> int:
        return self.proxy.port

    def state(self, proof: str) -> str | None:
        """Return where the exchange of `proof` stands in the store."""
        database = sqlite3.connect(self.store)
        try:
            row = database.execute(
                "SELECT state FROM exchanges WHERE proof_id = ?", (proof,)
            ).fetchone()
        finally:
            database.close()
        return row[0] if row else None

    def states(self) -> list[str]:
        """Return the states that exchanges are in."""
        database = sqlite3.connect(self.store)
        try:
            rows = database.execute("SELECT DISTINCT state FROM exchanges").fetchall()
        finally:
            database.close()
        return [state for (state,) in rows]

    def ends_as(self, proof: str, state: str) -> bool:
        return eventually(lambda: self.state(proof) == state)

    def let_go(self) -> None:
        self.proxy.call(self.rail.let_go)

    @property
    def clients(self) -> int:
        """How many client connections the gateway knows of."""
        assert self.proxy.master is not None
        return len(self.proxy.master.addons.get("proxyserver").connections)

    @property
    def complaints(self) -> list[str]:
        """Log lines that speak of a crash of the host or of the engine."""
        return [line for line in self.proxy.log if "has crashed" in line]


def eventually(claim: Callable[[], bool], wait_s: float = WAIT_S) -> bool:
    """Poll `claim` until it holds; False when it never does."""
    pause = threading.Event()
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if claim():
            return True
        pause.wait(0.005)
    return claim()


def services(url: str, routes: str = ROUTES, more: str = "") -> str:
    lines = [
        "  api:",
        f"    base_url: {url}",
        f"    auth: {{bearer: {UPSTREAM_SECRET}}}",
        *([f"    {more}"] if more else []),
        "    routes:",
        routes,
    ]
    return "\n".join(lines)


@contextmanager
def scene(
    respond: Respond | bytes = OK,
    *,
    rail: ToyRail | None = None,
    timeouts: str = "",
    more: str = "",
    routes: str = ROUTES,
    base_url: str | None = None,
    read_body: bool = True,
    upstream_ssl: Any = None,
    addons: Callable[[Runtime], Sequence[Any]] = build_addons,
    check: bool = True,
    aim_option_at_upstream: bool = False,
    sink: Sink | None = None,
    ticker: Callable[[], int] = uptime_ms,
    **options: Any,
) -> Iterator[Scene]:
    """Run everything for the length of the block, and see that nothing has crashed."""
    rail = rail or ToyRail()
    timeouts = f"timeouts: {{{timeouts}}}" if timeouts else ""
    with (
        tempfile.TemporaryDirectory(dir=in_memory()) as folder,
        upstream(respond, read_body=read_body, ssl=upstream_ssl) as server,
    ):
        store = Path(folder) / "gateway.db"
        text = config_text(
            services(base_url or server.url, routes),
            TOY_METHOD,
            store=store,
            more="\n".join(line for line in (timeouts, more) if line),
        )
        if aim_option_at_upstream:
            options["mode"] = f"reverse:{server.url}"
        runtime = Runtime(sink, rail.build, ticker)
        with running(text, runtime=runtime, addons=addons, **options) as proxy:
            play = Scene(proxy, server, rail, store)
            yield play
            if rail.released is not None and not proxy.is_stopped:
                play.let_go()
        if check:
            assert play.complaints == []


def call(
    version: str,
    port: int,
    method: str,
    target: str,
    *headers: tuple[str, str],
    body: bytes = b"",
    timeout_s: float = WAIT_S,
) -> Reply:
    """Make one call on a connection of its own and return all that came back."""
    if version == "h2":
        with H2Client(port, timeout_s=timeout_s) as client:
            if body:
                headers = (*headers, ("content-length", str(len(body))))
            stream_id = client.request(method, target, headers, end=not body)
            if body:
                client.upload(stream_id, body)
            stream = client.response(stream_id)
            return Reply(stream.status, stream.fields, stream.body, stream.ended)
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with RawClient(port, timeout_s=timeout_s) as client:
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return read_reply(client, method)


def read_reply(client: RawClient, method: str = "GET") -> Reply:
    reply = Reply()
    try:
        reply.status, reply.fields, _ = client.head()
        reply.body, fields = _body(client, method, reply)
        reply.fields |= fields
    except (EOFError, ConnectionError) as end:
        reply.complete = False
        reply.body += end.args[0] if isinstance(end, EOFError) else b""
    return reply


def _body(client: RawClient, method: str, reply: Reply) -> tuple[bytes, dict[str, str]]:
    if method == "HEAD" or reply.status in {204, 304}:
        return b"", {}
    if "content-length" in reply.fields:
        return client.exactly(int(reply.fields["content-length"])), {}
    if "chunked" not in reply.fields.get("transfer-encoding", ""):
        return client.rest(), {}
    while size := int(client.line().split(b";")[0], 16):
        reply.body += client.exactly(size)
        client.exactly(2)
    trailers = {}
    while line := client.line():
        name, _, value = line.decode().partition(":")
        trailers[name.lower()] = value.strip()
    return reply.body, trailers


def paying(proof: str = "toy-1") -> tuple[str, str]:
    return ("Authorization", f"Bearer {proof}")


def marked(body: bytes = UPSTREAM_BODY) -> bytes:
    """Return an upstream's answer that can be told from any other."""
    return (
        b"HTTP/1.1 200 OK\r\nX-Marked: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
        % (UPSTREAM_FIELD.encode(), len(body))
        + body
    )


def is_free_of_marks(reply: Reply) -> bool:
    """Whether not one byte of a marked upstream answer is in `reply`."""
    return UPSTREAM_BODY not in reply.everything and UPSTREAM_FIELD.encode() not in reply.everything
