"""The sans-io stages and all around them: a real rail and store, a settler with switches."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpp_gateway.config import load_text
from mpp_gateway.crypto.keccak import keccak256
from mpp_gateway.gateway import admission, settlement
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.executor import Executor
from mpp_gateway.gateway.machine import Machine, Pending
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.gateway.snapshot import Snapshot, compile_offers
from mpp_gateway.gateway.steps import Effect, Reply
from mpp_gateway.ledger.answers import Answers
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.sqlite import SqliteDriver
from mpp_gateway.limits.buckets import TokenBuckets
from mpp_gateway.protocol.challenge import Challenge, ChallengeKeys
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.messages import Answer, RequestHead
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.payer import Purse, pay
from mpp_gateway.rails.evm.request import Attempt, EvmSettings, Payment
from mpp_gateway.rails.evm.seller import EvmRail
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.routing.table import RouteTable
from tests.support.proxy import config_text

NOW_S = 1_800_000_000
BEGAN_MS = 0
OWNER = "0123456789abcdef" * 2
ENTROPY = bytes(range(32))
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
PAYEE = "0x742d35Cc6634c0532925a3b844bC9e7595F8fE00"
KEY = keccak256(b"machine payer")
METHOD = f"""  evm: {{chain_id: 84532,
    token: {{address: "{TOKEN}", name: USDC, version: "2", decimals: 6}},
    recipient: "{PAYEE}", submit: {{facilitator: "http://127.0.0.1:9"}}}}"""
ROUTES = """  api:
    base_url: https://upstream.example
    auth: {bearer: marked-upstream-secret}
    routes:
      "GET /paid": {charge: "0.01"}
      "POST /paid": {charge: "0.02", digest: true}
      "GET /first": {charge: "0.01", settle: before}
      "GET /free": free"""


@dataclass
class Switches:
    """A settler that does what it is told. `problem` is raised by `check`."""

    attempt: Attempt = field(default_factory=lambda: Attempt(Settlement.SETTLED, "0x" + "ab" * 32))
    problem: Problem | None = None
    closed_for: Problem | None = None
    """Raised by `ready`."""
    fault: Exception | None = None
    hold: asyncio.Event | None = None
    settled: list[str] = field(default_factory=list)
    withheld_for: str = ""

    async def ready(self, now_s: int) -> None:
        if self.closed_for is not None:
            raise self.closed_for

    async def check(self, payment: Payment, now_s: int) -> None:
        if self.problem is not None:
            raise self.problem

    async def settle(self, payment: Payment, now_s: int) -> Attempt:
        self.settled.append(str(payment.key))
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        return self.attempt

    refunds_from: bytes | None = None

    async def sent_for(self, *_: object) -> tuple[str, ...]:
        return ()

    async def refund(self, *_: object) -> Attempt:
        return Attempt(Settlement.REFUSED)

    async def maintain(self, now_s: int) -> int:
        return 0

    async def close(self) -> None:
        pass


class Stage:
    """A snapshot, a store and an executor with a clock that stands still unless it is moved."""

    def __init__(self, folder: Path, routes: str = ROUTES, more: str = "") -> None:
        text = config_text(routes, METHOD, store=folder / "stage.db", more=more)
        self.config = load_text(text, "stage.yaml", {})
        keys = [key.get_secret_value() for key in self.config.secret_keys]
        scheme = PaymentScheme(ChallengeKeys.from_secrets(keys), self.config.challenge_ttl_s)
        method = self.config.methods["evm"]
        self.settings = EvmSettings(
            chain_id=method.chain_id,
            token=bytes.fromhex(TOKEN[2:]),
            name=method.token.name,
            version=method.token.version,
            decimals=method.token.decimals,
            recipient=bytes.fromhex(PAYEE[2:]),
        )
        self.settler = Switches()
        rails = {"evm": EvmRail("evm", self.settings, scheme, self.settler)}
        self.snapshot = Snapshot(
            config=self.config,
            table=RouteTable.build(self.config),
            rails=rails,
            scheme=scheme,
            offers=compile_offers(self.config, rails),
        )
        self.database = Database(SqliteDriver(folder / "stage.db"), MIGRATIONS)
        self.database.open()
        self.exchanges = Exchanges(self.database, OWNER)
        self.now_s = NOW_S
        self.events: list[Any] = []
        self.reporter = Reporter(self.events.append, lambda: self.ticks_ms)
        self.ticks_ms = 0
        buckets = TokenBuckets(self.config.limits.unpaid_per_minute)
        self.executor = Executor(
            self.exchanges,
            Answers(self.database, self.config.idempotency.total_bytes),
            rails,
            self.reporter,
            lambda: self.now_s,
            buckets=buckets,
        )

    async def close(self) -> None:
        await self.executor.close()
        await self.database.close()

    async def is_spent(self, head: RequestHead) -> bool:
        """Whether the credential buys nothing more, once its delivery is written down."""
        for number in range(100):
            _, answer = await self.admit(head, number.to_bytes(32))
            if answer is None or answer.status != 409:
                return answer is not None and answer.status == 402
            await asyncio.sleep(0.01)
        return False

    async def match(self, head: RequestHead, entropy: bytes = ENTROPY) -> Exchange:
        matching = admission.match(head, self.snapshot, entropy[:12].hex(), self.now_s, entropy)
        found = await self.executor.run(matching, BEGAN_MS)
        assert isinstance(found, Exchange)
        return found

    async def admit(
        self, head: RequestHead, entropy: bytes = ENTROPY, body: bytes | None = None
    ) -> tuple[Exchange, Answer | None]:
        exchange = await self.match(head, entropy)
        work = admission.admit(exchange, self.now_s, entropy)
        return exchange, await self.executor.run(work, BEGAN_MS, body)

    async def deliver(self, exchange: Exchange, status: int = 200, headers=()) -> Any:
        work = settlement.deliver(exchange, status, headers, self.now_s)
        return await self.executor.run(work, BEGAN_MS)

    async def finish(self, exchange: Exchange, *, delivered: bool = True) -> None:
        work = settlement.finish(exchange, 200, delivered, abandoned=False, now_s=self.now_s)
        await self.executor.run(work, BEGAN_MS)

    async def buy(
        self, method: str = "GET", path: str = "/api/paid", entropy: bytes = ENTROPY, body=None
    ) -> Credential:
        """Return a credential for the request; `entropy` makes it another one."""
        _, answer = await self.admit(RequestHead(method, path, ()), entropy, body)
        assert answer is not None
        challenge = Challenge.parse(dict(answer.headers)["WWW-Authenticate"])
        return pay(challenge, Purse(self.settings.domain, 10**6), KEY, self.now_s)


def head_with(
    credential: Credential, method: str = "GET", path: str = "/api/paid", *more: tuple[str, str]
) -> RequestHead:
    return RequestHead(method, path, (("Authorization", credential.format()), *more))


def driven[T](
    machine: Machine[T], reply: Callable[[Effect], Reply | Problem]
) -> tuple[T | None, list[Effect]]:
    """Drive a stage by `begin` and `resume`, as a host without generators does."""
    pending = Pending(machine)
    effects: list[Effect] = []
    effect = pending.begin()
    while effect is not None:
        effects.append(effect)
        effect = pending.resume(reply(effect))
    assert pending.done
    return pending.result, effects
