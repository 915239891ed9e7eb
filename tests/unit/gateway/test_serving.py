"""Opening and closing everything as one: nothing half open, nothing forgotten."""

import asyncio
import fcntl
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway import serving
from mpp_gateway.gateway.exchange import GRACE_S
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.gateway.serving import Serving, open_serving
from mpp_gateway.gateway.steps import Deliver
from mpp_gateway.ledger.sql import StoreTooNew, StoreUnavailable
from mpp_gateway.ledger.states import State
from mpp_gateway.rails.base import Offer, RailMisconfigured
from tests.support.evm import until
from tests.support.machine import METHOD, NOW_S, OWNER, ROUTES, Stage, head_with
from tests.support.proxy import config_text


@dataclass
class Rail:
    """A rail whose care has switches."""

    name: str = "evm"
    error: Exception | None = None
    cared: int = 0
    closed: bool = False
    withheld_for: str = ""

    def __call__(self, *_, **more):
        self.settle_s = more["settle_s"]
        return self

    def offer(self, price, *_):
        return Offer(self.name, "toy", "charge", price, {}, "e30")

    async def self_check(self) -> None:
        if self.error:
            raise self.error

    async def maintain(self, now_s: int) -> int:
        self.cared += 1
        if self.error:
            raise self.error
        return 0

    async def close(self) -> None:
        self.closed = True


def config(tmp_path, more: str = ""):
    text = config_text(ROUTES, METHOD, store=tmp_path / "gateway.db", more=more)
    return load_text(text, "test.yaml", {})


def writers() -> int:
    return sum(thread.name == "store-writer" for thread in threading.enumerate())


def test_a_rail_that_is_misconfigured_stops_the_start_and_leaves_nothing_open(tmp_path):
    rail, before = Rail(error=RailMisconfigured("wrong token")), writers()
    with pytest.raises(RailMisconfigured):
        asyncio.run(open_serving(config(tmp_path), Reporter(), build_rail=rail))
    assert rail.closed
    assert writers() == before
    with (tmp_path / "gateway.db.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_store_of_a_newer_gateway_stops_the_start(tmp_path, monkeypatch):
    async def open_and_close() -> None:
        found = await open_serving(config(tmp_path), Reporter(), build_rail=Rail())
        await found.close()

    monkeypatch.setattr(serving, "MIGRATIONS", (*serving.MIGRATIONS, "CREATE TABLE n (x TEXT)"))
    asyncio.run(open_and_close())
    monkeypatch.undo()
    with pytest.raises(StoreTooNew):
        asyncio.run(open_and_close())


def test_a_rail_that_cannot_be_reached_is_a_problem_that_passes(tmp_path, monkeypatch, caplog):
    async def story() -> None:
        rail = Rail(error=RailUnavailable("no node"))
        found = await open_serving(config(tmp_path), Reporter(), build_rail=rail)
        assert found.problems == {"evm": "no node"}
        rail.error = None
        await until(lambda: not found.problems, "mended")
        await found.close()
        assert rail.closed

    monkeypatch.setattr(serving, "MAINTENANCE_S", 0)
    asyncio.run(story())
    said = [record.getMessage() for record in caplog.records]
    assert said == ["evm is not ready: no node ", "evm is ready again"]


def test_a_rail_that_withholds_its_offers_is_not_ready(tmp_path):
    async def story() -> None:
        rail = Rail()
        found = await open_serving(config(tmp_path), Reporter(), build_rail=rail)
        assert found.unready == {}
        rail.withheld_for = "No gas."
        assert found.unready == {"evm": "No gas."}
        found.problems["evm"] = "no node"
        assert found.unready == {"evm": "no node"}
        await found.close()

    asyncio.run(story())


def test_care_for_the_rails_outlives_a_rail_that_fails_in_a_new_way(tmp_path, monkeypatch):
    async def story() -> None:
        rail = Rail()
        found = await open_serving(config(tmp_path), Reporter(), build_rail=rail)
        for error in (ValueError("new"), RailMisconfigured("the token was swapped")):
            rail.error = error
            await until(lambda error=error: found.problems.get("evm") == str(error), "noticed")
            rail.error = None
            await until(lambda: not found.problems, "mended")
        assert not any(task.done() for task in found.upkeep)
        await found.close()

    monkeypatch.setattr(serving, "MAINTENANCE_S", 0)
    asyncio.run(story())


def test_a_settlement_of_less_than_a_second_still_gets_one(tmp_path):
    async def story() -> None:
        rail = Rail()
        found = await open_serving(
            config(tmp_path, "timeouts: {settle_s: 0.3}"), Reporter(), build_rail=rail
        )
        await found.close()
        assert rail.settle_s == 1

    asyncio.run(story())


@asynccontextmanager
async def beside(
    path: Path, clock: list[int], monkeypatch, more: str = "", sink=None
) -> AsyncIterator[Serving]:
    """Serve from a store that another process serves from, with a clock to be turned."""
    settings = load_text(config_text(ROUTES, METHOD, store=path, more=more), "test.yaml", {})
    monkeypatch.setattr(serving, "MAINTENANCE_S", 0)
    lock = path.with_name(path.name + ".lock")
    lock.write_text(OWNER)
    with lock.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # held by the other one: nothing is recovered
        found = await open_serving(
            settings, Reporter(sink), clock=lambda: clock[0], build_rail=Rail()
        )
        try:
            yield found
        finally:
            await found.close()


async def swept(found: Serving) -> None:
    """Wait for a sweep that began after now; the rails are cared for after each."""
    rail = found.rails["evm"]
    cared = rail.cared
    await until(lambda: rail.cared > cared + 1, "the sweeper comes by")


def test_upkeep_sweeps_what_another_process_left_behind_and_forgets_it(tmp_path, monkeypatch):
    async def story() -> None:
        stage = Stage(tmp_path)
        exchange, _ = await stage.admit(head_with(await stage.buy()))
        await stage.close()
        clock = [NOW_S]
        async with beside(tmp_path / "stage.db", clock, monkeypatch) as found:
            exchange_id = exchange.turn.exchange_id
            assert await found.exchanges.state(exchange_id) == "verified"
            clock[0] += 10**6

            async def forgotten() -> bool:
                return await found.exchanges.state(exchange_id) is None

            await until(forgotten, "the sweeper comes by")

    asyncio.run(story())


def told_of(heard: list, exchange_id: str) -> list[tuple[str, int, int]]:
    """Return kind, amount and time of what was told of an exchange."""
    return [
        (type(event).__name__, event.amount_minor, event.at_s)
        for event in heard
        if event.request_id == exchange_id
    ]


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/paid", "PaymentReleased"), ("/api/first", "PaymentCredited")]
)
def test_what_a_sweep_takes_up_is_told(tmp_path, monkeypatch, path, kind):
    async def story() -> None:
        stage, heard = Stage(tmp_path), []
        exchange, _ = await stage.admit(head_with(await stage.buy(path=path), path=path))
        await stage.close()
        clock = [NOW_S + 10**6]
        async with beside(tmp_path / "stage.db", clock, monkeypatch, sink=heard.append) as found:
            await swept(found)
        price = exchange.presented.amount_minor
        assert told_of(heard, exchange.turn.exchange_id) == [(kind, price, clock[0])]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/paid", "PaymentReleased"),
        ("/api/first", "PaymentCredited"),
        ("settling", "PaymentUnknown"),
    ],
)
def test_what_a_start_takes_up_is_told(tmp_path, path, kind):
    async def story() -> None:
        stage, heard = Stage(tmp_path), []
        route = "/api/paid" if path == "settling" else path
        exchange, _ = await stage.admit(head_with(await stage.buy(path=route), path=route))
        if path == "settling":
            await stage.exchanges.move(exchange.turn, State.VERIFIED, State.SETTLING, NOW_S)
        await stage.close()
        store = tmp_path / "stage.db"
        store.with_name("stage.db.lock").write_text(OWNER)
        settings = load_text(config_text(ROUTES, METHOD, store=store), "test.yaml", {})
        found = await open_serving(
            settings, Reporter(heard.append), clock=lambda: NOW_S, build_rail=Rail()
        )
        await found.close()
        price = exchange.presented.amount_minor
        assert told_of(heard, exchange.turn.exchange_id) == [(kind, price, NOW_S)]

    asyncio.run(story())


def test_an_impatient_gateway_gives_away_no_call_of_a_patient_one(tmp_path, monkeypatch):
    """Two configurations on one store: what is paid for here is not a credit for want of time."""

    async def story() -> None:
        stage = Stage(tmp_path, more="timeouts: {first_byte_s: 200, settle_s: 30, connect_s: 5}")
        credential = await stage.buy(path="/api/first")
        exchange, answer = await stage.admit(head_with(credential, path="/api/first"))
        assert (answer, exchange.state) == (None, State.SETTLED)
        clock = [NOW_S]
        quick = "timeouts: {connect_s: 1, first_byte_s: 1, settle_s: 1}"
        async with beside(tmp_path / "stage.db", clock, monkeypatch, quick) as found:
            state = found.exchanges.state
            clock[0] += 200
            await swept(found)
            assert await state(exchange.turn.exchange_id) is State.SETTLED
            assert isinstance(await stage.deliver(exchange), Deliver)
            await stage.finish(exchange)
            await stage.close()
            clock[0] += 10**6
            await swept(found)
            assert await state(exchange.turn.exchange_id) is State.SETTLED

    asyncio.run(story())


def test_a_paid_call_of_a_process_that_is_gone_is_a_credit_in_its_own_time(tmp_path, monkeypatch):
    async def story() -> None:
        stage = Stage(tmp_path, more="timeouts: {first_byte_s: 200, settle_s: 30, connect_s: 5}")
        credential = await stage.buy(path="/api/first")
        exchange, _ = await stage.admit(head_with(credential, path="/api/first"))
        await stage.close()
        clock = [NOW_S + 235 + GRACE_S]
        async with beside(tmp_path / "stage.db", clock, monkeypatch) as found:
            state = found.exchanges.state
            assert await state(exchange.turn.exchange_id) is State.SETTLED
            clock[0] += 1

            async def credited() -> bool:
                return await state(exchange.turn.exchange_id) is State.CREDITED

            await until(credited, "the sweeper comes by")

    asyncio.run(story())


def test_a_deleted_lock_file_hands_nobody_the_calls_of_a_live_gateway(tmp_path, monkeypatch):
    """The second gateway makes a lock file of its own, and has it for itself."""

    async def story() -> None:
        stage = Stage(tmp_path)
        exchange, _ = await stage.admit(head_with(await stage.buy()))
        path = tmp_path / "stage.db"
        settings = load_text(config_text(ROUTES, METHOD, store=path), "test.yaml", {})
        found = await open_serving(settings, Reporter(), clock=lambda: NOW_S, build_rail=Rail())
        assert await found.exchanges.state(exchange.turn.exchange_id) is State.VERIFIED
        assert isinstance(await stage.deliver(exchange), Deliver)
        await found.close()
        await stage.close()

    asyncio.run(story())


def test_what_a_store_holds_is_for_nobody_else_to_read(tmp_path, caplog):
    """Paid answers and signed transactions; the file that SQLite keeps beside it has them too."""

    async def story() -> dict[str, int]:
        found = await open_serving(config(tmp_path), Reporter(), build_rail=Rail())
        modes = {p.name: p.stat().st_mode & 0o777 for p in tmp_path.glob("gateway.db*")}
        await found.close()
        return modes

    before = os.umask(0)
    try:
        modes = asyncio.run(story())
    finally:
        os.umask(before)
    names = {"gateway.db", "gateway.db-wal", "gateway.db-shm", "gateway.db.lock"}
    assert modes == dict.fromkeys(names, 0o600)
    assert not caplog.records


def test_a_store_that_others_can_read_is_left_as_it_is_and_warned_of(tmp_path, caplog):
    async def story() -> None:
        found = await open_serving(config(tmp_path), Reporter(), build_rail=Rail())
        await found.close()

    store = tmp_path / "gateway.db"
    store.touch()
    store.chmod(0o640)
    asyncio.run(story())
    assert store.stat().st_mode & 0o777 == 0o640
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == f"{store} can be read by other users of this machine: chmod 600"


def test_a_store_under_two_names_stops_the_start(tmp_path):
    (tmp_path / "gateway.db").touch()
    os.link(tmp_path / "gateway.db", tmp_path / "other.db")
    with pytest.raises(StoreUnavailable, match="hard link"):
        asyncio.run(open_serving(config(tmp_path), Reporter(), build_rail=Rail()))


def test_open_payments_of_a_method_that_is_gone_are_told_of(tmp_path, caplog):
    """Renamed or taken out: nobody asks about them any more, and the operator should hear so."""

    async def story() -> None:
        first = await open_serving(config(tmp_path), Reporter(), build_rail=Rail())
        await first.database.write(
            lambda db: db.execute(
                "INSERT INTO exchanges (id, proof_id, rail, asset, account, amount_minor, scope,"
                " state, valid_until_s, owner, created_s, updated_s, asked_s)"
                " VALUES ('x', 'p', 'old', 'usd', 'a', '1', 's', 'unknown', 1, 'o', 1, 1, 1)"
            )
        )
        await first.close()
        second = await open_serving(config(tmp_path), Reporter(), build_rail=Rail())
        await second.close()

    asyncio.run(story())
    assert "1 payments by old are open, and no method has this name now" in caplog.text
