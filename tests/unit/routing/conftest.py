"""Tables of routes, written short: `{"GET /x": "free", "POST /x": 5}`."""

from collections.abc import Callable, Mapping

import pytest

from mpp_gateway.config import BaseUrl, GatewayConfig, Price, Route, Service
from mpp_gateway.config.patterns import parse_route_key
from mpp_gateway.protocol.money import Asset
from mpp_gateway.routing import RouteTable

ASSET = Asset("usd", 6)
BASE_URL = BaseUrl("https", "upstream.example", 443, "/base")


def make_route(key: str, price: str | int) -> Route:
    method, pattern, _ = parse_route_key(key)
    if price == "free":
        return Route(key, method, pattern, free=True)
    return Route(key, method, pattern, free=False, prices=(Price("evm", "charge", price, ASSET),))


@pytest.fixture
def service() -> Callable[..., Service]:
    def make(
        routes: Mapping[str, str | int], name: str = "api", base: BaseUrl = BASE_URL
    ) -> Service:
        return Service(name, base, tuple(make_route(*item) for item in routes.items()))

    return make


@pytest.fixture
def table(service) -> Callable[..., RouteTable]:
    """A table of one service `api`, or of several."""

    def make(routes: Mapping[str, str | int], base_path: str = "", **more) -> RouteTable:
        services = {"api": service(routes)} | {n: service(r, n) for n, r in more.items()}
        config = GatewayConfig(
            file="c.yaml",
            realm="r",
            secret_keys=(),
            services=services,
            methods={},
            base_path=base_path,
        )
        return RouteTable.build(config)

    return make
