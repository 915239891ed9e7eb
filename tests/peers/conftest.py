"""One chain for all peer tests; a gateway for each way to run it, and for each way to settle."""

from collections.abc import Iterator

import pytest

from tests.peers.shop import Chain, Shop, open_shop


@pytest.fixture(scope="session")
def chain() -> Iterator[Chain]:
    chain = Chain()
    yield chain
    chain.close()


@pytest.fixture(
    scope="module",
    params=[("addons", "own-key"), ("serve", "facilitator")],
    ids="-".join,
)
def shop(request, chain, tmp_path_factory) -> Iterator[Shop]:
    with open_shop(chain, tmp_path_factory.mktemp("shop"), *request.param) as shop:
        yield shop
