"""Kept answers, on every store: the last word counts, and nothing lies there for ever."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from mpp_gateway.gateway.serving import MIGRATIONS
from mpp_gateway.ledger.answers import BATCH_ROWS, Answers, KeptAnswer
from mpp_gateway.ledger.book import Claim, Turn
from mpp_gateway.ledger.database import Database
from mpp_gateway.ledger.exchanges import Exchanges
from mpp_gateway.ledger.states import State
from tests.unit.ledger.test_exchanges import NOW_S, claim_of

ANSWER = KeptAnswer("x1", "key", "request", 200, (("A", "b"), ("A", "c")), b"\x00\xff body", 2_000)
ROOM = 1_000


class Kept:
    """The kept answers of one store, asked without `await`."""

    def __init__(self, place) -> None:
        self.loop = asyncio.new_event_loop()
        self.database = Database(place.driver(), MIGRATIONS)
        self.database.open()
        self.answers = Answers(self.database, ROOM)
        self.exchanges = Exchanges(self.database, "lock")
        for number in range(1, 4):
            self.claimed(f"p{number}", number)

    def claimed(self, proof: str, number: int = 9):
        return self.ask(self.exchanges.claim(claim_of(proof, number), NOW_S))

    def keep(self, answer: KeptAnswer, attempt: int = 1) -> bool:
        return self.ask(self.answers.keep(answer, Turn(answer.exchange_id, attempt)))

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
    assert kept.keep(ANSWER)
    assert kept.find() == ANSWER
    assert kept.find(key="other") is None
    assert kept.find(exchange_id="x2") is None
    assert kept.find(now_s=2_000) is None


def test_what_is_kept_is_handed_over_for_the_turn_that_paid_for_it(kept):
    """In one write: killed between two, the same key would run the upstream again."""
    turn = Turn("x1", 1)
    for before, after in pairwise((State.CLAIMED, State.VERIFIED, State.SETTLING, State.SETTLED)):
        kept.ask(kept.exchanges.move(turn, before, after, NOW_S))
    kept.keep(ANSWER, attempt=2)
    assert kept.claimed("p1").claim is Claim.IN_PROGRESS
    kept.keep(ANSWER, attempt=1)
    assert kept.claimed("p1").claim is Claim.DELIVERED


def test_the_last_answer_that_is_kept_is_the_one_that_is_found(kept):
    kept.keep(replace(ANSWER, body=b"first"))
    kept.keep(ANSWER)
    assert kept.find() == ANSWER


def test_what_is_past_its_time_is_forgotten_batch_by_batch(kept):
    kept.keep(ANSWER)
    kept.keep(replace(ANSWER, exchange_id="x2", until_s=3_000))
    assert kept.ask(kept.answers.purge(1_999)) == 0
    assert kept.ask(kept.answers.purge(2_000)) == 1
    assert kept.ask(kept.answers.purge(2_000)) == 0
    assert kept.find(exchange_id="x2") is not None
    assert BATCH_ROWS > 1


def test_no_more_is_kept_than_there_is_room_for_until_some_is_forgotten(kept):
    big = replace(ANSWER, body=b"x" * 600)
    assert kept.keep(big)
    assert not kept.keep(replace(big, exchange_id="x2"))
    assert kept.find(exchange_id="x2") is None
    kept.ask(kept.answers.purge(2_000))
    assert kept.keep(replace(big, exchange_id="x3"))
