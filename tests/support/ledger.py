"""A store with exchanges in it, as a gateway would have left it, and a look at it."""

import asyncio
from typing import Any, Self

from pydantic import SecretStr

from mpp_gateway.config.model import PostgresStore, SqliteStore, Store
from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.book import Claim, ClaimRequest, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges, IsGone
from mpp_gateway.ledger.states import State
from tests.support.stores import Place, SqlitePlace

SCHEMA = len(MIGRATIONS)
NOW_S = 1_700_000_000
VALID_S = NOW_S + 600
PRICE = 10_000
RAIL = "evm"
ASSET = "eip155:84532/erc20:0x036cbd53842c5426634e7929541ec2318f3dcf7e"
PAYER = "0x00000000000000000000000000000000000000aa"
PAYEE = "0x00000000000000000000000000000000000000bb"
CREDIT_S = 86_400
PATHS: dict[State, tuple[State, ...]] = {
    State.CLAIMED: (),
    State.VERIFIED: (State.VERIFIED,),
    State.SETTLING: (State.VERIFIED, State.SETTLING),
    State.SETTLED: (State.VERIFIED, State.SETTLING, State.SETTLED),
    State.UNKNOWN: (State.VERIFIED, State.SETTLING, State.UNKNOWN),
    State.RELEASED: (State.RELEASED,),
    State.CREDITED: (State.VERIFIED, State.SETTLING, State.SETTLED, State.CREDITED),
    State.REFUNDING: (State.VERIFIED, State.SETTLING, State.SETTLED, State.REFUNDING),
    State.REFUNDED: (
        State.VERIFIED,
        State.SETTLING,
        State.SETTLED,
        State.REFUNDING,
        State.REFUNDED,
    ),
}


async def taken_up(exchanges: Exchanges, is_gone: IsGone, now_s: int) -> int:
    """Take up what is left by who is gone; return how many exchanges there were."""
    return sum([len(batch) async for batch in exchanges.recover(is_gone, now_s)])


async def swept(exchanges: Exchanges, now_s: int) -> int:
    """Take up what is overdue; return how many exchanges there were."""
    return len(await exchanges.sweep(now_s))


def store_of(place: Place) -> Store:
    """Return the place as a configuration has it."""
    if isinstance(place, SqlitePlace):
        return SqliteStore(place.path)
    return PostgresStore(SecretStr(place.url))


def request(name: str, **changes: Any) -> ClaimRequest:
    """Return what a claim for the exchange of that name writes down."""
    fields = {
        "exchange_id": name,
        "proof_id": f"proof-of-{name}",
        "rail": RAIL,
        "asset": ASSET,
        "account": f"{ASSET}/{PAYER}",
        "payee": f"{ASSET}/{PAYEE}",
        "amount_minor": PRICE,
        "credit_s": CREDIT_S,
        "scope": "scope",
        "valid_until_s": VALID_S,
        "due_s": VALID_S,
        "challenge_id": f"challenge-of-{name}",
    }
    return ClaimRequest(**(fields | changes))


class Keeper:
    """Keeps the books of one store as a gateway does, without `await`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._runner = asyncio.Runner()
        self._database = Database(place.driver(), MIGRATIONS)

    def __enter__(self) -> Self:
        self._database.open()
        self.exchanges = Exchanges(self._database, "lock")
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._database.close())
        self._runner.close()

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def claim(self, name: str, now_s: int = NOW_S, **changes: Any) -> Turn:
        """Begin an exchange."""
        found = self.run(self.exchanges.claim(request(name, **changes), now_s))
        assert found.claim in (Claim.FRESH, Claim.CREDITED), found
        return Turn(found.exchange_id, found.attempt)

    def sell(
        self, name: str, state: State = State.SETTLED, now_s: int = NOW_S, **changes: Any
    ) -> Turn:
        """Bring an exchange to `state`; a settled one was handed over."""
        reference = changes.pop("reference", f"ref-of-{name}")
        turn = self.claim(name, now_s, **changes)
        before = State.CLAIMED
        for after in PATHS[state]:
            named = reference if after is State.SETTLED else None
            moved = self.exchanges.move(turn, before, after, now_s, reference=named)
            assert self.run(moved), (before, after)
            before = after
        if state is State.SETTLED:
            assert self.run(self.exchanges.mark_delivered(turn))
        return turn

    def move(self, turn: Turn, before: State, after: State, now_s: int = NOW_S) -> None:
        assert self.run(self.exchanges.move(turn, before, after, now_s))
