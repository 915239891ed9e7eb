"""A buyer's wallet for the `evm` rail: a key, and a node for tokens that are not known here."""

from dataclasses import dataclass, field

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.protocol.challenge import Challenge
from mpp_gateway.protocol.credential import Credential
from mpp_gateway.protocol.money import DECIMALS_MAX
from mpp_gateway.protocol.networks import known_token
from mpp_gateway.rails.evm.payer import Purse, pay
from mpp_gateway.rails.evm.request import INTENT, METHOD, NonceForm, Terms
from mpp_gateway.rails.evm.tokens import (
    TokenUnknown,
    decimals_from_chain,
    domain_from_chain,
    is_spent,
    known_domain,
)
from mpp_gateway.rails.wallet import Deal, NotAnswered, PaymentDeclined

USUAL_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class EvmWallet:
    """Signs EIP-3009 authorizations; see `rails.wallet.Wallet`."""

    private_key: bytes | None = field(repr=False)
    rpc_url: str | None = field(default=None, repr=False)
    nonce_form: NonceForm = "packed"
    method: str = METHOD

    @property
    def can_sign(self) -> bool:
        """Whether there is a key."""
        return self.private_key is not None

    def read(self, challenge: Challenge) -> Deal | None:
        """Return what an evm charge asks for; see `rails.wallet.Wallet.read`."""
        if (challenge.method, challenge.intent) != (METHOD, INTENT):
            return None
        try:
            request = challenge.request_object
            terms = Terms.read(request)
        except ValueError:
            return None
        decimals = request["methodDetails"].get("decimals", USUAL_DECIMALS)
        if not isinstance(decimals, int) or not 0 <= decimals <= DECIMALS_MAX:
            return None
        known = known_token(terms.chain_id, terms.token)
        return Deal(
            challenge=challenge,
            amount_minor=terms.amount_minor,
            decimals=decimals,
            unit=None if known is None else known.unit,
            terms=terms,
            shown={
                "token": checksum(terms.token),
                "chain_id": terms.chain_id,
                "recipient": checksum(terms.recipient),
            },
            chain_id=terms.chain_id,
        )

    async def check(self, deal: Deal) -> None:
        """Refuse a challenge that counts the token in other units than the token does itself."""
        terms: Terms = deal.terms
        if (known := known_token(terms.chain_id, terms.token)) is not None:
            decimals = known.decimals
        elif self.rpc_url:
            try:
                decimals = await decimals_from_chain(self.rpc_url, terms.token)
            except TokenUnknown as error:
                raise PaymentDeclined(str(error)) from None
        else:
            return  # only shown: what cannot be asked is not paid either
        if decimals != deal.decimals:
            # Limits are in whole units: with decimals of the seller's choice any price is below.
            raise PaymentDeclined(
                f"the seller counts {deal.decimals} decimals, the token has {decimals}"
            )

    async def sign(self, deal: Deal, now_s: int) -> Credential:
        """Sign an authorization of the price; see `rails.wallet.Wallet.sign`."""
        assert self.private_key is not None
        terms: Terms = deal.terms
        domain = known_domain(terms.chain_id, terms.token)
        if domain is None:
            if not self.rpc_url:
                raise PaymentDeclined(
                    "this token is not known here; name a node with --rpc-url to ask it"
                )
            try:
                domain = await domain_from_chain(self.rpc_url, terms.chain_id, terms.token)
            except TokenUnknown as error:
                raise PaymentDeclined(str(error)) from None
        purse = Purse(domain, deal.amount_minor, self.nonce_form)
        return pay(deal.challenge, purse, self.private_key, now_s)

    async def is_made(self, credential: Credential) -> bool | None:
        """Ask the token whether the authorization was used; see `rails.wallet.Wallet.is_made`."""
        if self.rpc_url is None:
            return None
        try:
            terms = Terms.read(credential.challenge.request_object)
            payer = parse_address(str(credential.payload["from"]))
            nonce = bytes.fromhex(str(credential.payload["nonce"]).removeprefix("0x"))
            return await is_spent(self.rpc_url, terms.token, payer, nonce)
        except (KeyError, ValueError, TokenUnknown) as error:
            raise NotAnswered(str(error)) from None
