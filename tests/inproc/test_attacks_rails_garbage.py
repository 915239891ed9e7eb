"""Credentials of the newer rails with members of other kinds: refused, and never a fault."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpp_gateway.protocol import base64url
from mpp_gateway.protocol.credential import Credential
from tests.support.paid import token_of
from tests.support.stripe_server import stand_in_stripe
from tests.support.stripe_shop import PRICE, stripe_shop
from tests.support.tempo import pull, push, tempo_shop, zero

TRIES = 200
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 10**400, "", "x", "NaN", [], {}, ["a"], {"a": 1}, [[[[[]]]]],
    "\0", "\udc80", "é", "a" * 5000, "0x", "0x76", "0x" + "c0" * 60, "0x" + "f9" * 90, "spt_",
    "e30", "bnVsbA", "did:pkh:eip155:42431:0x" + "zz" * 20,
    "did:pkh:eip155:99999999999999999999:0x" + "11" * 20,
    "eyJtZXRob2REZXRhaWxzIjpbXX0", "eyJtZXRob2REZXRhaWxzIjp7ImNoYWluSWQiOlsxXX0sImN1cnJlbmN5IjoxfQ",
)  # fmt: skip


@contextmanager
def stripe(folder: Path) -> Iterator[tuple[Any, Credential]]:
    with stand_in_stripe() as server, stripe_shop(server, folder, method="external_id: o") as shop:
        yield shop, shop.credential(shop.challenge(), server.mint(PRICE), externalId="o")


@contextmanager
def tempo(
    folder: Path, credential: Callable[[Any], Credential], **options: Any
) -> Iterator[tuple[Any, Credential]]:
    with tempo_shop(folder, **options) as shop:
        yield shop, credential(shop)


FREE = '\n      "GET /paid": {charge: "0"}\n'
SHOPS: dict[str, Callable[[Path], Any]] = {
    "stripe": stripe,
    "tempo pull": lambda folder: tempo(folder, lambda s: pull(s.challenge(), s.key)),
    "tempo push": lambda folder: tempo(
        folder, lambda s: push(s.challenge(), s.key, "0x" + "1" * 64)
    ),
    "tempo zero": lambda folder: tempo(folder, lambda s: zero(s.challenge(), s.key), routes=FREE),
}


def members_of(credential: Credential) -> dict[str, Any]:
    token = credential.format().removeprefix("Payment ")
    members: dict[str, Any] = json.loads(base64url.decode(token))
    return members


def places(members: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in members.items():
        yield (*at, name)
        if isinstance(value, dict):
            yield from places(value, (*at, name))


@pytest.mark.parametrize("rail", SHOPS)
def test_a_member_of_any_other_kind_is_refused_and_never_a_fault(tmp_path, rail):
    """V23: what is optional, and what is not checked yet, must not break who reads it."""
    numbers = random.Random(rail)  # noqa: S311 - noise, no secret
    with ExitStack() as stack:
        shop, good = stack.enter_context(SHOPS[rail](tmp_path))
        whole = members_of(good)
        everywhere = list(places(whole))
        seen: Counter[int] = Counter()
        for number in range(TRIES):
            members = json.loads(json.dumps(whole))
            place = members
            *path, name = everywhere[number % len(everywhere)]
            for step in path:
                place = place[step]
            if number < len(everywhere):
                del place[name]
            else:
                place[name] = numbers.choice(VALUES)
            seen[shop.send(token_of(members))[0]] += 1
        log = "\n".join(shop.proxy.log)

    assert set(seen) <= {200, 400, 402, 503}, seen
    assert seen[200] + seen[503] <= len(everywhere) + 1  # the one that says no less without it
    assert seen[402] > TRIES // 2
    assert "Traceback" not in log
