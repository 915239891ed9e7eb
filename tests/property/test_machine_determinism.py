"""With time and randomness given, two hosts of the machine do the same and say the same, byte for
byte: one drives it by `begin` and `resume`, the other is the executor.
"""

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mpp_gateway.errors import RailUnavailable
from mpp_gateway.gateway import admission, aiming, settlement
from mpp_gateway.gateway.exchange import Exchange
from mpp_gateway.gateway.steps import Emit, NeedBody
from mpp_gateway.protocol.messages import Answer, RequestHead
from mpp_gateway.protocol.problems import PaymentInsufficient, Problem, VerificationFailed
from mpp_gateway.rails.base import Settlement
from mpp_gateway.rails.evm.request import Attempt
from tests.support.machine import BEGAN_MS, Stage, driven, head_with
from tests.support.stores import in_memory

METHODS = st.sampled_from(["GET", "POST", "HEAD", "DELETE", "OPTIONS"])
TARGETS = st.sampled_from(
    ["/api/paid", "/api/paid?a=1", "/api/paid?", "/api/first", "/api/free", "/api/none", "/x", "*"]
)
FIELDS = st.lists(
    st.sampled_from(
        [
            ("Accept-Payment", "evm/charge"),
            ("Accept-Payment", "evm/charge;q=0"),
            ("Authorization", "Bearer x"),
            ("Authorization", "Payment x"),
            ("Authorization", "Payment e30"),
            ("X-Any", "thing"),
        ]
    ),
    max_size=3,
).map(tuple)
CHECKS = st.sampled_from(
    [None, None, VerificationFailed("no"), PaymentInsufficient("poor"), RailUnavailable("down")]
)
ATTEMPTS = st.sampled_from([Attempt(state, "0x" + "cd" * 32, "why") for state in Settlement])


@dataclass(frozen=True)
class Play:
    """One request, and how the rail behaves for it."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    entropy: bytes
    pays: bool
    body: bytes
    check: Problem | None
    attempt: Attempt
    status: int
    copies: int
    client: str


PLAYS = st.builds(
    Play,
    METHODS,
    TARGETS,
    FIELDS,
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.sampled_from([b"", b"body"]),
    CHECKS,
    ATTEMPTS,
    st.sampled_from([200, 204, 402, 404, 500]),
    st.integers(1, 3),
    st.sampled_from(["", "203.0.113.7"]),
)


async def head_of(stage: Stage, play: Play) -> RequestHead:
    head = RequestHead(play.method, play.target, play.fields)
    found = stage.snapshot.table.match
    try:
        route = found(play.method, play.target).route
    except (Problem, AttributeError):
        return head
    if not play.pays or route.free:
        return head
    entropy = bytes(byte ^ 0xFF for byte in play.entropy)
    bare = replace(head, headers=())
    _, answer = await stage.admit(bare, entropy, play.body)
    if answer is None or answer.status != 402:
        return head
    stage.settler.problem = None
    credential = await stage.buy(play.method, play.target, entropy, play.body)
    return head_with(credential, play.method, play.target, *play.fields)


async def noted(stage: Stage) -> None:
    """Wait for what the executor writes down on its own: until then a copy is told to wait."""
    await asyncio.gather(*stage.executor._late)


async def by_executor(stage: Stage, play: Play, head: RequestHead) -> list[Any]:
    """Return the verdicts of the stages, with every effect they asked for."""
    executor, shown = stage.executor, []
    effects: list[Any] = []
    reply = executor._reply

    async def seen(effect: Any, began_ms: int, body: bytes | None) -> Any:
        effects.append(effect)
        return await reply(effect, began_ms, body)

    executor._reply = seen
    for number in range(play.copies):
        entropy = play.entropy[:-1] + bytes((number,))
        matching = admission.match(head, stage.snapshot, entropy[:12].hex(), stage.now_s, entropy)
        found = await executor.run(matching, BEGAN_MS)
        shown.append(found if isinstance(found, Answer) else "matched")
        if isinstance(found, Exchange):
            work = admission.admit(found, stage.now_s, entropy)
            refusal = await executor.run(work, BEGAN_MS, play.body)
            shown.append(refusal)
            if refusal is None:
                shown.append(aiming.aim(found))
                work = settlement.deliver(found, play.status, (), stage.now_s)
                shown.append(await executor.run(work, BEGAN_MS))
                work = settlement.finish(found, play.status, True, False, stage.now_s)
                shown.append(await executor.run(work, BEGAN_MS))
                await noted(stage)
    return [shown, [repr(effect) for effect in effects]]


def by_resume(stage: Stage, play: Play, head: RequestHead, loop: Any) -> list[Any]:
    """As `by_executor`, without its driving: only its performing is used."""

    def reply(effect: Any) -> Any:
        assert isinstance(effect, NeedBody | Emit) or effect is not None
        return loop.run_until_complete(stage.executor._reply(effect, BEGAN_MS, play.body))

    shown: list[Any] = []
    effects: list[Any] = []

    def run(machine: Any) -> Any:
        result, asked = driven(machine, reply)
        effects.extend(asked)
        return result

    for number in range(play.copies):
        entropy = play.entropy[:-1] + bytes((number,))
        found = run(admission.match(head, stage.snapshot, entropy[:12].hex(), stage.now_s, entropy))
        shown.append(found if isinstance(found, Answer) else "matched")
        if isinstance(found, Exchange):
            refusal = run(admission.admit(found, stage.now_s, entropy))
            shown.append(refusal)
            if refusal is None:
                shown.append(aiming.aim(found))
                shown.append(run(settlement.deliver(found, play.status, (), stage.now_s)))
                shown.append(run(settlement.finish(found, play.status, True, False, stage.now_s)))
                loop.run_until_complete(noted(stage))
    return [shown, [repr(effect) for effect in effects]]


@settings(max_examples=150, deadline=None)
@given(PLAYS)
def test_both_hosts_of_the_machine_give_the_same_effects_and_the_same_bytes(play):
    results = []
    for host in ("executor", "resume"):
        with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
            loop = asyncio.new_event_loop()
            stage = Stage(Path(folder), more="limits: {unpaid_per_minute: 2}")
            head = replace(loop.run_until_complete(head_of(stage, play)), client=play.client)
            stage.settler.problem, stage.settler.attempt = play.check, play.attempt
            if host == "executor":
                results.append(loop.run_until_complete(by_executor(stage, play, head)))
            else:
                results.append(by_resume(stage, play, head, loop))
            loop.run_until_complete(stage.close())
            loop.close()
    assert results[0] == results[1]


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_challenge_depends_on_the_randomness_and_on_nothing_hidden(one, other):
    async def asked(entropy: bytes) -> Answer:
        with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
            stage = Stage(Path(folder))
            _, answer = await stage.admit(RequestHead("GET", "/api/paid", ()), entropy)
            await stage.close()
        assert answer is not None
        return answer

    first, again, second = (asyncio.run(asked(entropy)) for entropy in (one, one, other))
    assert first == again
    assert (first == second) == (one == other)
