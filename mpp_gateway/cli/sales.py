"""What `serve` tells its operator: one line for each sale, and for each call that went wrong."""

import sys
from collections.abc import Callable

from mpp_gateway import events
from mpp_gateway.cli.output import styled
from mpp_gateway.config.model import GatewayConfig
from mpp_gateway.protocol.money import format_minor

type Say = Callable[[str], None]

SERVER_ERROR = 500


def sales_log(config: GatewayConfig, say: Say) -> Callable[[events.Event], None]:
    """Return a sink that tells of money and of upstream failures; of unpaid asking it is silent."""
    decimals = {method.asset.code: method.asset.decimals for method in config.methods.values()}
    tell_of_upstream = _upstream_log(say)

    def price(event: events.Event) -> str:
        return format_minor(event.amount_minor, decimals.get(event.asset, 0))

    def sink(event: events.Event) -> None:
        # What is found out later, with no request at hand, has no route.
        call = f"{event.service} {event.route}" if event.service else f"request {event.request_id}"
        line = _about_money(event, call, price(event)) or _about_a_failure(event, call)
        if line:
            say(line)
        else:
            tell_of_upstream(event)

    return sink


def _about_money(event: events.Event, call: str, price: str) -> str | None:
    match event:
        case events.PaymentSettled(reference=reference):
            return f"{styled('sold', 'green', sys.stderr)}     {call}  {price}  {reference}"
        case events.PaymentCredited():
            return f"credited {call}  {price}  paid, not delivered: good once more"
        case events.RefundOwed():
            return f"owed     {call}  {price}  paid, not delivered: is sent back"
        case events.PaymentRefunded(reference=reference):
            return f"refunded {call}  {price}  {reference}"
        case events.PaymentUnknown():
            return f"{styled('unknown', 'yellow', sys.stderr)}  {call}  {price}  ask again"
    return None


def _about_a_failure(event: events.Event, call: str) -> str | None:
    match event:
        case events.AnswerRepeated(status=status):
            return f"repeated {call}  {status}"
        case events.UpstreamFailed(slug=slug):
            return f"{styled('failed', 'red', sys.stderr)}   {call}  {slug}"
        case events.RequestRefused(slug=slug, status=status) if status >= SERVER_ERROR:
            return f"{styled('refused', 'red', sys.stderr)}  {call}  {slug}"
    return None


def _upstream_log(say: Say) -> Callable[[events.Event], None]:
    """Return a sink that tells of an upstream's own 5xx, once the money of its call is known."""
    broken: dict[str, int] = {}

    def answered(event: events.Event, money: str = "") -> None:
        status = broken.pop(event.request_id, None)
        if status is not None:
            word = styled("answered", "yellow", sys.stderr)
            call = f"{event.service} {event.route}"
            say(f"{word} {call}  {status}  {money}request {event.request_id}")

    def sink(event: events.Event) -> None:
        match event:
            case events.UpstreamAnswered(status=status) if status >= SERVER_ERROR:
                broken[event.request_id] = status
                if not event.asset:
                    answered(event)  # free: nothing more is to be told of it
            case events.PaymentReleased():
                answered(event, "nothing was charged  ")
            case events.ExchangeFinished():
                answered(event)
            case _:
                pass

    return sink
