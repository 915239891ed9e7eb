"""A gateway that sells for a stand-in of Stripe's, and a buyer with shared payment tokens."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.rails.stripe.request import proof_id_of
from tests.support import upstream as upstreams
from tests.support.client import get
from tests.support.paid import Gatekeeper, Response, wait_until
from tests.support.proxy import Proxy, config_text, running
from tests.support.stripe_server import KEY, PROFILE, StandInStripe

PRICE = 100
ROUTES = """
      "GET /paid": {charge: "1.00"}
      "GET /dear": {charge: "2.00"}
      "GET /item/:id": {charge: "1.00"}
      "POST /bound": {charge: "1.00", digest: true}
      "GET /first": {charge: "1.00", settle: before}
      "GET /credit": {charge: "1.00", on_failure: credit}
      "GET /free": free
"""


def method_text(server: StandInStripe, more: str = "") -> str:
    """Return the `methods` of a configuration whose Stripe is `server`."""
    return (
        f"  stripe: {{secret_key: {KEY}, network_id: {PROFILE}, api_base: {server.url!r}"
        f"{', ' if more else ''}{more}}}\n"
    )


@dataclass
class StripeShop:
    """One gateway with everything around it."""

    server: StandInStripe
    upstream: upstreams.Upstream
    keeper: Gatekeeper
    store: Path
    config: str
    proxy: Proxy | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    # The buyer

    def ask(self, target: str = "/api/paid", *fields: str, method: str = "GET", body: bytes = b""):
        assert self.proxy is not None
        return get(self.proxy.port, target, *fields, method=method, body=body)

    def challenge(self, target: str = "/api/paid", **more: Any) -> Challenge:
        status, fields, answer = self.ask(target, **more)
        assert status == 402, (status, answer)
        return Challenge.parse(fields["www-authenticate"])

    def credential(self, challenge: Challenge, spt: str, **payload: Any) -> Credential:
        return Credential(challenge, {"spt": spt, **payload})

    def buy(self, target: str = "/api/paid", spt: str = "", **more: Any) -> tuple[Credential, str]:
        """Return a credential that is good for the request, and the token in it."""
        spt = spt or self.server.mint(PRICE)
        return self.credential(self.challenge(target, **more), spt), spt

    def send(
        self, credential: Credential | str, target: str = "/api/paid", *fields: str, **more: Any
    ) -> Response:
        text = credential if isinstance(credential, str) else credential.format()
        return self.ask(target, f"Authorization: {text}", *fields, **more)

    # What came of it

    def row(self, spt: str) -> dict[str, Any]:
        with closing(sqlite3.connect(self.store, timeout=5)) as db:
            db.row_factory = sqlite3.Row
            found = db.execute(
                "SELECT * FROM exchanges WHERE proof_id = ?", (proof_id_of(spt),)
            ).fetchall()
        return dict(found[0]) if found else {"state": "none"}

    def states(self) -> dict[str, int]:
        with closing(sqlite3.connect(self.store, timeout=5)) as db:
            return dict(Counter(row[0] for row in db.execute("SELECT state FROM exchanges")))

    def reaches(self, spt: str, state: str) -> None:
        """Wait until the exchange of a token is in `state`."""
        wait_until(
            lambda: self.row(spt)["state"] == state, f"{state}, but {self.row(spt)['state']}"
        )

    @property
    def hits(self) -> int:
        return len(self.upstream.seen)

    @property
    def rail(self) -> Any:
        assert self.proxy is not None
        return self.proxy.runtime.serving.rails["stripe"]

    def call(self, work: Callable[[], Any]) -> Any:
        """Run `work` on the gateway's loop."""
        assert self.proxy is not None
        return self.proxy.call(work)

    def resolve(self) -> None:
        """Have the gateway ask now what it asks every 15 seconds."""
        assert self.proxy is not None
        self.call(self.proxy.runtime.serving.resolver.round)

    def calm(self) -> None:
        """End every fault; the upstream answers well again."""
        self.server.calm()
        self.server.refunds_wait = False
        self.keeper.answers("200 OK", body=b"served")
        self.keeper.before = None

    def start(self, config: str | None = None) -> None:
        self.proxy = self.stack.enter_context(running(config or self.config))

    def stop(self) -> None:
        self.stack.close()
        self.proxy = None


@contextmanager
def stripe_shop(
    server: StandInStripe,
    folder: Path,
    *,
    method: str = "",
    routes: str = ROUTES,
    settle_s: int = 30,
    more: str = "",
    service: str = "",
    methods: str = "",
) -> Iterator[StripeShop]:
    """Run a gateway before an upstream; `method` is added to the settings of the method.

    `service` is a line of the service's, `methods` are others beside Stripe's first.
    """
    keeper = Gatekeeper()
    store = folder / "gateway.db"
    with ExitStack() as stack:
        up = stack.enter_context(upstreams.upstream(keeper))
        services = f"  api:\n    base_url: {up.url}\n    {service}\n    routes:{routes}"
        times = f"timeouts: {{connect_s: 1, first_byte_s: 20, settle_s: {settle_s}}}\n{more}"
        text = config_text(services, method_text(server, method) + methods, store=store, more=times)
        shop = StripeShop(server, up, keeper, store, text)
        shop.calm()
        shop.start()
        stack.callback(lambda: shop.proxy and shop.stop())
        stack.callback(server.calm)
        stack.callback(keeper.opened.set)
        yield shop
