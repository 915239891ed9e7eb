"""From a configured method to a rail: the only module of it that reads the configuration."""

from mpp_gateway.config.stripe import StripeMethod
from mpp_gateway.ledger.database import Database
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.stripe.client import StripeClient
from mpp_gateway.rails.stripe.request import ConnectTerms, StripeSettings
from mpp_gateway.rails.stripe.seller import StripeRail
from mpp_gateway.rails.stripe.statement import StripeStatement

READ_S = 30
"""A question to Stripe's lists may take a third of it."""


def open_rail(
    name: str,
    method: StripeMethod,
    *,
    scheme: PaymentScheme,
    database: Database,  # noqa: ARG001 - Stripe remembers what was asked of it
    settle_s: int,
) -> StripeRail:
    """Return the rail that `method` describes; connects to nothing until it is used."""
    settings = _settings(method, settle_s)
    return StripeRail(name, settings, scheme, _client(method, settings))


def open_statement(
    name: str,
    method: StripeMethod,
    recipients: frozenset[str],  # noqa: ARG001 - Stripe pays the account of its key, nobody else
) -> StripeStatement:
    """Return what Stripe has of the method's account."""
    settings = _settings(method, READ_S)
    return StripeStatement(name, settings, _client(method, settings))


def _settings(method: StripeMethod, settle_s: int) -> StripeSettings:
    connect = (
        ConnectTerms() if method.connect is None else ConnectTerms(**method.connect.model_dump())
    )
    return StripeSettings(
        network_id=method.network_id,
        currency=method.currency,
        is_live=method.is_live,
        payment_method_types=method.payment_method_types,
        is_listed=method.payment_methods == "listed",
        captures_manually=method.capture == "manual",
        external_id=method.external_id,
        metadata=dict(method.metadata),
        connect=connect,
        settle_s=settle_s,
    )


def _client(method: StripeMethod, settings: StripeSettings) -> StripeClient:
    return StripeClient(
        method.secret_key.get_secret_value(),
        api_base=method.api_base,
        version=method.stripe_version,
        account=settings.connect.stripe_account,
        settle_s=settings.settle_s,
    )
