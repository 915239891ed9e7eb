"""One shop for each way to pay, all with the same handles: what is true of every rail is said once.

A till has a gateway, a buyer who pays in one way, and the network that the money moves on.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from tests.support import stripe_shop, tempo
from tests.support.evm import now, settings_of
from tests.support.evm_buyer import buyers_shop
from tests.support.evm_permits import permit_shop
from tests.support.paid import PRICE, Response, paid_gateway
from tests.support.stripe_server import stand_in_stripe
from tests.support.x402 import X402Buyer, x402_gateway

NOWHERE = "http://127.0.0.1:1"
TIMES = "connect_s: 1, first_byte_s: 5, settle_s: 4"
"""Short enough for a transaction of Tempo's, which is good for 25 seconds, to outlive the call."""
CHALLENGE_S = 300
STRANGER = b"\x42" * 20
ELSEWHERE = 4217
SEND, RECEIPT = "eth_sendRawTransaction", "eth_getTransactionReceipt"

type Payment = Any
"""What a buyer presents: a credential, or the text of an x402 payment."""


class Till(ABC):
    """Sells `/api/paid` to one buyer."""

    pays_ahead = False
    """Whether the buyer moves its money itself, before it asks."""
    gives_back = "released"
    """What becomes of the money when the upstream fails: `released`, `credited` or `refunded`."""
    when_slow = "rail-unavailable"
    after_slow = 200
    when_down = "rail-unavailable"
    price_minor = PRICE

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        self.sent_minor = 0
        """What the buyer itself has moved to the seller."""
        self._undo: list[Callable[[], None]] = []

    # The buyer

    @abstractmethod
    def buy(self, target: str = "/api/paid", **wrong: Any) -> Payment:
        """Return what pays for a call; `wrong` is what a buyer has wrong in it."""

    def send(self, payment: Payment, target: str = "/api/paid", *fields: str) -> Response:
        answer: Response = self.shop.send(payment, target, *fields)
        return answer

    def wrong_amounts(self) -> list[Payment]:
        return [self.buy(amount_minor=self.price_minor + more) for more in (-1, 1)]

    def wrong_recipients(self) -> list[Payment]:
        return [self.buy(recipient=STRANGER)]

    @abstractmethod
    def wrong_chains(self) -> list[Payment]:
        """Return payments on other chains, or in other currencies."""

    def expired(self) -> Payment:
        """Return what was good until just now."""
        payment = self.buy()
        self.wait(CHALLENGE_S + 1)
        return payment

    # What came of it

    def takings(self) -> int:
        """Return what the seller has."""
        taken: int = self.shop.balance()
        return taken

    def moved(self) -> int:
        """Return what the gateway has moved to the seller."""
        return self.takings() - self.sent_minor

    def nothing_happened(self) -> None:
        assert (self.shop.hits, self.moved()) == (0, 0)

    # What goes wrong

    def wait(self, seconds: int) -> None:
        """Let the gateway's clock go on."""
        late_s = now() + seconds
        self.shop.proxy.runtime.serving.executor.clock = lambda: late_s

    def go_down(self) -> None:
        """Let nothing listen where the rail's network is."""
        rpc = self._rpc()
        rpc._url, url = NOWHERE, rpc._url
        self._undo.append(lambda: setattr(rpc, "_url", url))

    def slow_down(self) -> None:
        """Let the network take every question, and answer none."""
        self.shop.node.faults["*"] = "hang"

    def lose_reply(self) -> None:
        """Let the network do what moves the money, and the word of it be lost."""
        self.shop.node.faults[SEND] = "lost"

    def calm(self) -> None:
        """End every fault."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self.shop.node.faults.clear()

    def _rpc(self) -> Any:
        return self.shop.proxy.runtime.serving.rails["evm"]._chain._rpc


class ChallengedTill(Till):
    """Its buyer answers a challenge."""

    @abstractmethod
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        """Return a credential for a challenge."""

    def buy(self, target: str = "/api/paid", **wrong: Any) -> Payment:
        return self.pay(self.shop.challenge(target), **wrong)


class AuthorizationTill(ChallengedTill):
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        names = {"amount_minor": "value"}
        changes = {names.get(name, name): value for name, value in wrong.items()}
        good: Credential = self.shop.sign(challenge)
        return self.shop.resign(good, **changes) if changes else good

    def wrong_chains(self) -> list[Payment]:
        domain = settings_of(self.shop.chain.demo).domain
        return [self.buy(domain=replace(domain, chain_id=ELSEWHERE))]


class TransactionTill(ChallengedTill):
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        credential: Credential = self.shop.pull(challenge, **wrong)
        return credential

    def wrong_chains(self) -> list[Payment]:
        return [self.buy(chain_id=ELSEWHERE)]


class PermitTill(ChallengedTill):
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        if amount := wrong.pop("amount_minor", 0):
            wrong |= {"permitted": amount, "requested": amount}
        if to := wrong.pop("recipient", b""):
            wrong["to"] = to
        credential: Credential = self.shop.permit(challenge, **wrong)
        return credential

    def wrong_chains(self) -> list[Payment]:
        good = self.buy()
        chain = str(self.shop.chain.demo.chain_id)
        return [replace(good, source=good.source.replace(chain, str(ELSEWHERE)))]


class _AheadTill(ChallengedTill):
    pays_ahead = True
    gives_back = "credited"
    when_slow = when_down = "settlement-unknown"

    def lose_reply(self) -> None:
        self.shop.node.faults[RECEIPT] = "lost"

    def _note(self, wrong: dict[str, Any]) -> None:
        if "recipient" not in wrong:
            self.sent_minor += wrong.get("amount_minor", self.price_minor)


class HashTill(_AheadTill):
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        self._note(wrong)
        credential: Credential = self.shop.push(challenge, self.shop.transfer(challenge, **wrong))
        return credential

    def wrong_chains(self) -> list[Payment]:
        return [replace(self.buy(), source=self.shop.source(chain_id=ELSEWHERE))]


class PullTill(ChallengedTill):
    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        fields = {name: wrong.pop(name) for name in ("chain_id",) if name in wrong}
        key = self.shop.key
        raw = tempo.signed(key, tempo.moves(challenge, key, **wrong), **fields).raw
        payload = {"type": "transaction", "signature": "0x" + raw.hex()}
        return Credential(challenge, payload, tempo.source_of(key))

    def wrong_chains(self) -> list[Payment]:
        return [self.buy(chain_id=ELSEWHERE)]

    def _rpc(self) -> Any:
        return self.shop.proxy.runtime.serving.rails["tempo"]._node._rpc


class PushTill(_AheadTill):
    _rpc = PullTill._rpc

    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        self._note(wrong)
        return tempo.push(challenge, self.shop.key, self.shop.transfer(challenge, **wrong))

    def wrong_chains(self) -> list[Payment]:
        return [replace(self.buy(), source=tempo.source_of(self.shop.key, ELSEWHERE))]


class StripeTill(ChallengedTill):
    """A token is a permission to charge up to a sum: it cannot be for too much."""

    gives_back = "refunded"
    when_slow, after_slow = "settlement-unknown", 503
    price_minor = stripe_shop.PRICE

    def pay(self, challenge: Challenge, **wrong: Any) -> Credential:
        amount = wrong.pop("amount_minor", self.price_minor)
        credential: Credential = self.shop.credential(
            challenge, self.shop.server.mint(amount, **wrong)
        )
        return credential

    def wrong_amounts(self) -> list[Payment]:
        return [self.buy(amount_minor=self.price_minor - 1)]

    def wrong_recipients(self) -> list[Payment]:
        return [self.buy(network_id="profile_other")]

    def wrong_chains(self) -> list[Payment]:
        return [self.buy(currency="eur")]

    def takings(self) -> int:
        signs = {"charged": 1, "refunded": -1}
        return sum(signs.get(e.kind, 0) * e.minor for e in self.shop.server.ledger)

    def go_down(self) -> None:
        addresses = self.shop.rail._client._sdk._requestor._options.base_addresses
        good = dict(addresses)
        addresses["api"] = NOWHERE
        self._undo.append(lambda: addresses.update(good))

    def slow_down(self) -> None:
        self.shop.server.faults["create"] = "hang"

    def lose_reply(self) -> None:
        self.shop.server.once["create"] = "lost"

    def calm(self) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()
        self.shop.server.closing.set()
        self.shop.server.calm()


class HeldTill(StripeTill):
    gives_back = "released"
    when_slow, after_slow = "rail-unavailable", 200

    def lose_reply(self) -> None:
        self.shop.server.once["capture"] = "lost"


class X402Till(Till):
    """Pays by x402; its buyer answers no challenge."""

    def __init__(self, buyer: X402Buyer, version: int) -> None:
        super().__init__(buyer.paid)
        self._buyer, self._version = buyer, version

    def buy(self, target: str = "/api/paid", **wrong: Any) -> Payment:
        names = {"amount_minor": "value"}
        make = self._buyer.v2 if self._version == 2 else self._buyer.v1
        return make(target, **{names.get(name, name): value for name, value in wrong.items()})

    def send(self, payment: Payment, target: str = "/api/paid", *fields: str) -> Response:
        say = self._buyer.send if self._version == 2 else self._buyer.send_v1
        return say(payment, target, *fields)

    def wrong_chains(self) -> list[Payment]:
        domain = settings_of(self.shop.chain.demo).domain
        return [self.buy(domain=replace(domain, chain_id=ELSEWHERE))]

    def expired(self) -> Payment:
        return self.buy(valid_before=now() - 1)


@contextmanager
def _stripe(folder: Path, kind: type[StripeTill], method: str, settle_s: int) -> Iterator[Till]:
    with (
        stand_in_stripe() as server,
        stripe_shop.stripe_shop(server, folder, method=method, settle_s=settle_s) as shop,
    ):
        yield kind(shop)


@contextmanager
def _over[S](shop: AbstractContextManager[S], till: Callable[[S], Till]) -> Iterator[Till]:
    with shop as opened:
        yield till(opened)


TILLS: dict[str, Callable[[Path, str], AbstractContextManager[Till]]] = {
    "evm authorization": lambda f, t: _over(paid_gateway(f, timeouts=t), AuthorizationTill),
    "evm transaction": lambda f, t: _over(
        buyers_shop(f, "transaction", timeouts=t), TransactionTill
    ),
    "evm hash": lambda f, t: _over(buyers_shop(f, "hash", timeouts=t), HashTill),
    "evm permit2": lambda f, t: _over(permit_shop(f, timeouts=t), PermitTill),
    "tempo pull": lambda f, t: _over(tempo.tempo_shop(f, timeouts=t), PullTill),
    "tempo push": lambda f, t: _over(tempo.tempo_shop(f, timeouts=t), PushTill),
    "stripe": lambda f, t: _stripe(f, StripeTill, "", _settle_s(t)),
    "stripe held": lambda f, t: _stripe(f, HeldTill, "capture: manual", _settle_s(t)),
    "x402 v2": lambda f, t: _over(x402_gateway(f, timeouts=t), lambda b: X402Till(b, 2)),
    "x402 v1": lambda f, t: _over(x402_gateway(f, timeouts=t), lambda b: X402Till(b, 1)),
}
"""Every way to pay that has rows of its own."""


def _settle_s(times: str) -> int:
    return int(times.rpartition(" ")[2])
