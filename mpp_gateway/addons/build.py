"""The addon chain, in the order in which a request meets it."""

from typing import Any

from mpp_gateway.addons.discovery import Discovery
from mpp_gateway.addons.host import Host
from mpp_gateway.addons.injection import AuthInjection
from mpp_gateway.addons.inspection import Inspection
from mpp_gateway.addons.payment import Payment
from mpp_gateway.addons.routing import Routing
from mpp_gateway.addons.runtime import Runtime
from mpp_gateway.addons.settlement import Settlement


def build_addons(runtime: Runtime | None = None) -> list[Any]:
    """Return the addons of one gateway; they share one runtime."""
    runtime = runtime or Runtime()
    return [
        Host(runtime),
        Discovery(runtime),
        Routing(runtime),
        Payment(),
        AuthInjection(),
        Settlement(),
        Inspection(),
    ]
