"""From a configured method to a rail: the only module that reads the configuration."""

from mpp_gateway.config.tempo import TIP20_DECIMALS, TempoMethod, TempoSponsor
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.ledger.database import Database
from mpp_gateway.protocol.money import parse_minor
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.tempo.chain import TempoNode
from mpp_gateway.rails.tempo.request import RPC_S, Share, Sponsor, TempoSettings
from mpp_gateway.rails.tempo.seller import TempoRail
from mpp_gateway.rails.tempo.statement import TempoStatement


def open_rail(
    name: str,
    method: TempoMethod,
    *,
    scheme: PaymentScheme,
    database: Database,  # noqa: ARG001 - what was signed is kept nowhere
    settle_s: int,
) -> TempoRail:
    """Return the rail that `method` describes; connects to nothing until it is used."""
    settings = TempoSettings(
        chain_id=method.chain_id,
        token=parse_address(method.currency),
        recipient=parse_address(method.recipient),
        modes=method.modes,
        shares=tuple(
            Share(parse_address(share.recipient), share.of_ten_thousand) for share in method.splits
        ),
        settle_s=settle_s,
        rpc_s=min(settle_s, RPC_S),
        sponsor=None if method.sponsor is None else _sponsor(method, method.sponsor),
    )
    node = TempoNode(method.rpc_url.get_secret_value(), settings.token, settings.rpc_s)
    return TempoRail(name, settings, scheme, node)


def open_statement(name: str, method: TempoMethod, recipients: frozenset[str]) -> TempoStatement:
    """Return what the chain has of the rail; `recipients` are paid beside the method's own."""
    token = parse_address(method.currency)
    node = TempoNode(method.rpc_url.get_secret_value(), token, RPC_S)
    payees = {parse_address(recipient) for recipient in {method.recipient, *recipients}}
    sharers = {parse_address(share.recipient) for share in method.splits}
    return TempoStatement(name, node, method.chain_id, token, payees, sharers)


def _sponsor(method: TempoMethod, settings: TempoSponsor) -> Sponsor:
    return Sponsor(
        private_key=bytes.fromhex(settings.private_key.get_secret_value().removeprefix("0x")),
        fee_token=parse_address(settings.fee_token or method.currency),
        fee_max_minor=parse_minor(settings.max_fee, TIP20_DECIMALS),
        in_flight_max_minor=parse_minor(settings.max_in_flight, TIP20_DECIMALS),
    )
