"""Kept answers, on every store: the last word counts, and nothing lies there for ever."""

import asyncio
from dataclasses import replace

import pytest

from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.answers import BATCH_ROWS, Answers, KeptAnswer
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from tests.unit.ledger.test_exchanges import NOW_S, claim_of

ANSWER = KeptAnswer("x1", "key", "request", 200, (("A", "b"), ("A", "c")), b"\x00\xff body", 2_000)
PENDING = replace(ANSWER, status=0, request_digest="", headers=(), body=b"", until_s=1_500)
ROOM = 1_000


class Kept:
    """The kept answers of one store, asked without `await`."""

    def __init__(self, place) -> None:
        self.loop = asyncio.new_event_loop()
        self.database = Database(place.driver(), MIGRATIONS)
        self.database.open()
        self.answers = Answers(self.database, ROOM)
        exchanges = Exchanges(self.database, "lock")
        for number in range(1, 4):
            self.ask(exchanges.claim(claim_of(f"p{number}", number), NOW_S))

    def ask(self, work):
        return self.loop.run_until_complete(work)

    def find(self, exchange_id="x1", key="key", now_s=NOW_S):
        return self.ask(self.answers.find(exchange_id, key, now_s))

    def close(self) -> None:
        self.ask(self.database.close())
        self.loop.close()


@pytest.fixture
def kept(place):
    found = Kept(place)
    yield found
    found.close()


def test_an_answer_comes_back_as_it_was_kept_under_its_own_key_and_until_its_time(kept):
    assert kept.ask(kept.answers.keep(ANSWER))
    assert kept.find() == ANSWER
    assert kept.find(key="other") is None
    assert kept.find(exchange_id="x2") is None
    assert kept.find(now_s=2_000) is None


def test_the_whole_answer_takes_the_place_of_the_word_that_it_is_coming(kept):
    kept.ask(kept.answers.announce(PENDING))
    assert kept.find() == PENDING
    kept.ask(kept.answers.keep(ANSWER))
    assert kept.find() == ANSWER


def test_the_word_that_an_answer_is_coming_never_hides_one_that_is_there(kept):
    kept.ask(kept.answers.keep(ANSWER))
    kept.ask(kept.answers.announce(PENDING))
    assert kept.find() == ANSWER


def test_only_what_is_still_coming_can_be_taken_back(kept):
    kept.ask(kept.answers.announce(PENDING))
    kept.ask(kept.answers.keep(replace(ANSWER, exchange_id="x2")))
    for exchange_id in ("x1", "x2"):
        kept.ask(kept.answers.forget_pending(exchange_id))
    assert kept.find() is None
    assert kept.find(exchange_id="x2") is not None


def test_what_is_past_its_time_is_forgotten_batch_by_batch(kept):
    kept.ask(kept.answers.keep(ANSWER))
    kept.ask(kept.answers.keep(replace(ANSWER, exchange_id="x2", until_s=3_000)))
    assert kept.ask(kept.answers.purge(1_999)) == 0
    assert kept.ask(kept.answers.purge(2_000)) == 1
    assert kept.ask(kept.answers.purge(2_000)) == 0
    assert kept.find(exchange_id="x2") is not None
    assert BATCH_ROWS > 1


def test_no_more_is_kept_than_there_is_room_for_until_some_is_forgotten(kept):
    big = replace(ANSWER, body=b"x" * 600)
    assert kept.ask(kept.answers.keep(big))
    assert not kept.ask(kept.answers.keep(replace(big, exchange_id="x2")))
    assert kept.find(exchange_id="x2") is None
    kept.ask(kept.answers.purge(2_000))
    assert kept.ask(kept.answers.keep(replace(big, exchange_id="x3")))
