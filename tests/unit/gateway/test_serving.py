"""Opening and closing everything as one: nothing half open, nothing forgotten."""

import asyncio
import fcntl
import threading
from dataclasses import dataclass

import pytest

from mpp_gateway.config import load_text
from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway import serving
from mpp_gateway.gateway.reporting import Reporter
from mpp_gateway.gateway.serving import longest_settlement_s, open_serving
from mpp_gateway.ledger.database import StoreTooNew
from mpp_gateway.rails.base import RailMisconfigured
from tests.support.evm import until
from tests.support.machine import METHOD, NOW_S, ROUTES, Stage, head_with
from tests.support.proxy import config_text


@dataclass
class Rail:
    """A rail whose care has switches."""

    name: str = "evm"
    error: Exception | None = None
    cared: int = 0
    closed: bool = False

    def __call__(self, *_, **more):
        self.settle_s = more["settle_s"]
        return self

    def offer(self, *_):
        return None

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


def test_a_rail_that_cannot_be_reached_is_a_problem_that_passes(tmp_path, monkeypatch):
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


def test_care_for_the_rails_outlives_a_rail_that_fails_in_a_new_way(tmp_path, monkeypatch):
    async def story() -> None:
        rail = Rail()
        found = await open_serving(config(tmp_path), Reporter(), build_rail=rail)
        for error in (ValueError("new"), RailMisconfigured("the token was swapped")):
            rail.error = error
            await until(lambda error=error: found.problems.get("evm") == str(error), "noticed")
            rail.error = None
            await until(lambda: not found.problems, "mended")
        assert not found.upkeep.done()
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


def test_the_sweeper_waits_for_the_longest_settlement_of_any_route(tmp_path):
    assert longest_settlement_s(config(tmp_path)) == 30 + serving.SWEEP_MARGIN_S
    assert longest_settlement_s(config(tmp_path, "timeouts: {settle_s: 40.5}")) == 101


def test_upkeep_sweeps_what_another_process_left_behind(tmp_path, monkeypatch):
    async def story() -> None:
        stage = Stage(tmp_path)
        exchange, _ = await stage.admit(head_with(await stage.buy()))
        await stage.close()
        path = tmp_path / "stage.db"
        settings = load_text(config_text(ROUTES, METHOD, store=path), "test.yaml", {})
        clock = [NOW_S]
        monkeypatch.setattr(serving, "MIGRATIONS", serving.MIGRATIONS[:1])
        with path.with_name("stage.db.lock").open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_SH)  # another process serves: nothing is recovered
            found = await open_serving(
                settings, Reporter(), clock=lambda: clock[0], build_rail=Rail()
            )
            exchange_id = exchange.turn.exchange_id
            assert await found.exchanges.state(exchange_id) == "verified"
            clock[0] += 10**6

            async def released() -> bool:
                return await found.exchanges.state(exchange_id) == "released"

            await until(released, "the sweeper comes by")
            await found.close()

    monkeypatch.setattr(serving, "MAINTENANCE_S", 0)
    asyncio.run(story())
