"""What `serve` tells its operator: one line for each sale, and for each call that went wrong."""

import sys
from collections.abc import Callable

from mpp_gateway import events
from mpp_gateway.cli.output import styled
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.protocol.money import format_minor

type Say = Callable[[str], None]


def sales_log(config: GatewayConfig, say: Say) -> Callable[[events.Event], None]:
    """Return a sink that tells of money and of upstream failures; of unpaid asking it is silent."""
    decimals = {method.asset.code: method.asset.decimals for method in config.methods.values()}

    def price(event: events.Event) -> str:
        return format_minor(event.amount_minor, decimals.get(event.asset, 0))

    def sink(event: events.Event) -> None:
        call = f"{event.service} {event.route}"
        match event:
            case events.PaymentSettled(reference=reference):
                say(
                    f"{styled('sold', 'green', sys.stderr)}     {call}  {price(event)}  {reference}"
                )
            case events.PaymentCredited():
                say(f"credited {call}  {price(event)}  paid, not delivered: good once more")
            case events.PaymentUnknown():
                say(f"{styled('unknown', 'yellow', sys.stderr)}  {call}  {price(event)}  ask again")
            case events.UpstreamFailed(slug=slug):
                say(f"{styled('failed', 'red', sys.stderr)}   {call}  {slug}")
            case events.RequestRefused(slug=slug, status=status) if status >= 500:
                say(f"{styled('refused', 'red', sys.stderr)}  {call}  {slug}")
            case _:
                pass

    return sink
