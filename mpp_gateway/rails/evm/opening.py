"""From a configured method to a rail: the only module that reads the configuration."""

from pydantic import SecretStr

from mpp_gateway.config.hooks import find_function
from mpp_gateway.config.methods import EvmMethod, Facilitator
from mpp_gateway.crypto.addresses import parse_address
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.ledger.database import Database
from mpp_gateway.rails.evm.chain import ChainClient
from mpp_gateway.rails.evm.facilitator import FacilitatorSettler
from mpp_gateway.rails.evm.facilitator_client import FacilitatorClient
from mpp_gateway.rails.evm.facilitators import Facilitators
from mpp_gateway.rails.evm.inspection import Inspector
from mpp_gateway.rails.evm.permit_trace import PermitTrace, Senders
from mpp_gateway.rails.evm.relaying import Relay
from mpp_gateway.rails.evm.relays import Relays
from mpp_gateway.rails.evm.request import RPC_S, EvmSettings, Settler, Share
from mpp_gateway.rails.evm.seller import EvmRail
from mpp_gateway.rails.evm.statement import EvmStatement
from mpp_gateway.rails.evm.x402_permits import X402Permits
from mpp_gateway.rails.payment_scheme import PaymentScheme
from mpp_gateway.rails.statement import NoStatement


def open_rail(
    name: str, method: EvmMethod, *, scheme: PaymentScheme, database: Database, settle_s: int
) -> EvmRail:
    """Return the rail that `method` describes; connects to nothing until it is used."""
    settings = EvmSettings(
        chain_id=method.chain_id,
        token=parse_address(method.token.address),
        name=method.token.name,
        version=method.token.version,
        decimals=method.token.decimals,
        recipient=parse_address(method.recipient),
        settle_s=settle_s,
        rpc_s=min(settle_s, RPC_S),
        facilitator_s=settle_s,
        max_fee_wei=method.max_fee_wei,
        types=method.credential_types,
        takes_contracts=method.contract_wallets,
        x402=method.x402,
        x402_permit2=method.x402_permit2,
        submitter=_account(method),
        shares=tuple(
            Share(parse_address(share.recipient), share.of_ten_thousand) for share in method.splits
        ),
    )
    chain = None
    if method.rpc_url is not None:
        chain = ChainClient(
            method.rpc_url.get_secret_value(),
            settings.token,
            settings.rpc_s,
            method.confirmations,
        )
    relay = None
    if chain is not None:
        relay = Relay(settings, chain, Relays(database, settings.chain_id), scheme.ttl_s)
    settler = _settler(name, method, settings, chain, database)
    trace = permits = None
    if chain is not None:
        trace = PermitTrace(settings, chain, Senders(database, settings.chain_id))
    if chain is not None and trace is not None and method.submit.private_key is not None:
        # Imported here, as the settler is, and for it alone.
        from mpp_gateway.rails.evm.own_key import OwnKeySettler  # noqa: PLC0415
        from mpp_gateway.rails.evm.permits import Permits  # noqa: PLC0415

        assert isinstance(settler, OwnKeySettler)
        permits = Permits(settings, chain, settler, trace)
    x402_permits = None
    # Without a node the facilitator's word may be about less, which the payer had it move.
    if chain is not None:
        # Without facilitators for what is open in the store alone: that may have been sold by some.
        facilitators = Facilitators(())
        if settings.x402 and isinstance(settler, FacilitatorSettler):
            facilitators = settler.facilitators
        x402_permits = X402Permits(settings, facilitators, chain)
    return EvmRail(name, settings, scheme, settler, chain, relay, permits, x402_permits, trace)


def open_statement(name: str, method: EvmMethod, recipients: frozenset[str]) -> EvmStatement:
    """Return what the chain has of the rail; `recipients` are paid beside the method's own.

    Errors: `NoStatement` without a node.
    """
    if method.rpc_url is None:
        raise NoStatement("there is no `rpc_url`: the chain cannot be asked")
    token = parse_address(method.token.address)
    chain = ChainClient(method.rpc_url.get_secret_value(), token, RPC_S, method.confirmations)
    payees = {parse_address(recipient) for recipient in {method.recipient, *recipients}}
    account = _account(method)
    givers = set() if account is None else {account}
    return EvmStatement(name, chain, method.chain_id, token, payees, givers, method.confirmations)


def _account(method: EvmMethod) -> bytes | None:
    key = method.submit.private_key
    return None if key is None else address_of(_key_of(key))


def _settler(
    name: str,
    method: EvmMethod,
    settings: EvmSettings,
    chain: ChainClient | None,
    database: Database,
) -> Settler:
    inspector = None if chain is None else Inspector(chain)
    submit = method.submit
    if submit.facilitators:
        clients = [_client(entry) for entry in submit.facilitators]
        facilitators = Facilitators(clients, settings.retry_after_s)
        setting = f"methods.{name}.submit.facilitator"
        return FacilitatorSettler(facilitators, settings, inspector, setting)
    if submit.private_key is None or chain is None or inspector is None:
        raise ValueError(f"{settings.chain_id}: a gas key needs rpc_url")
    # Imported here: signing transactions costs a second of start-up, and only this needs it.
    from mpp_gateway.rails.evm.own_key import OwnKeySettler  # noqa: PLC0415

    key = _key_of(submit.private_key)
    return OwnKeySettler(settings, chain, inspector, database, key)


def _client(entry: Facilitator) -> FacilitatorClient:
    headers, hook = {}, None
    if entry.authorization is not None:
        headers["Authorization"] = entry.authorization.get_secret_value()
    if entry.auth_hook is not None:
        hook = find_function(entry.auth_hook)
    return FacilitatorClient(entry.url, headers, hook)


def _key_of(text: SecretStr) -> bytes:
    return bytes.fromhex(text.get_secret_value().removeprefix("0x"))
