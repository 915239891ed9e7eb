"""The configuration: what the operator writes, checked as a whole and then frozen.

`load` reads a file, `load_text` a text; both return a `GatewayConfig` or raise `ConfigError` with
every mistake at once.
"""

from mpp_gateway.config.load import load, load_text
from mpp_gateway.config.methods import EvmMethod, Method
from mpp_gateway.config.model import (
    BaseUrl,
    GatewayConfig,
    Idempotency,
    Limits,
    Listen,
    Price,
    Route,
    Service,
    Timeouts,
    Tls,
)
from mpp_gateway.config.stripe import StripeMethod
from mpp_gateway.config.tempo import TempoMethod

__all__ = [
    "BaseUrl",
    "EvmMethod",
    "GatewayConfig",
    "Idempotency",
    "Limits",
    "Listen",
    "Method",
    "Price",
    "Route",
    "Service",
    "StripeMethod",
    "TempoMethod",
    "Timeouts",
    "Tls",
    "load",
    "load_text",
]
