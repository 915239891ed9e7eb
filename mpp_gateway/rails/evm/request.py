"""What the rail asks for, and what it is given: offers, proofs and their canonical names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.eip712 import Eip712Domain
from mpp_gateway.protocol import jcs, permit2
from mpp_gateway.protocol.eip3009 import Authorization
from mpp_gateway.protocol.evm_transaction import SignedTransaction
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.problems import Problem
from mpp_gateway.rails.base import Offer, Settlement
from mpp_gateway.rails.evm import abi
from mpp_gateway.rails.evm.abi import Transfer

METHOD = "evm"
INTENT = "charge"
AUTHORIZATION, TRANSACTION, HASH = "authorization", "transaction", "hash"
PERMIT2 = "permit2"
CONTRACT_GAS = 500_000
"""What a contract wallet may burn, to check a signature or in a whole settlement."""
CALL_GAS = 1_500_000
"""What any call of ours may burn, with what some chains count as gas for the chain below them. A
token asks the payer's own code where it has some, and a key may have delegated to a contract at any
time (EIP-7702): without this line one call's price buys a block full of gas."""
SENT_BY_BUYERS = frozenset({TRANSACTION, HASH})
"""Types of credential whose gas the buyer pays: nothing of ours can run out."""
RPC_S = 10
VALID_UNTIL_MAX_S = 2**33
"""In the year 2242. Some x402 buyers sign for ever, which no store has a number for."""
WHOLE_SHARE = 10_000
"""A hundred percent, in hundredths of one."""
_PERMIT_ID = re.compile(r"permit2:([1-9][0-9]*):(0x[0-9a-f]{40}):(0|[1-9][0-9]{0,77})")
_TX_ID = re.compile(r"evmtx:([1-9][0-9]*):(0x[0-9a-f]{64})")
_SOURCE = re.compile(r"did:pkh:eip155:([1-9][0-9]{0,15}):(0x[0-9a-fA-F]{40})")
_PROOF_ID = re.compile(r"eip3009:([1-9][0-9]*):(0x[0-9a-f]{40}):(0x[0-9a-f]{40}):0x([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody else gets of every price, in hundredths of a percent."""

    recipient: bytes
    of_ten_thousand: int

    def of(self, amount_minor: int) -> int:
        """Return the share of an amount, rounded down: the rest is the recipient's."""
        return amount_minor * self.of_ten_thousand // WHOLE_SHARE


@dataclass(frozen=True, slots=True)
class EvmSettings:
    """One token on one chain, and who is paid. `name` and `version` are the token's EIP-712 ones.

    `settle_s` bounds one attempt to settle; `rpc_s` and `facilitator_s` bound one call, in seconds.
    `max_fee_wei` bounds what we pay for one unit of gas.
    """

    chain_id: int
    token: bytes
    name: str
    version: str
    decimals: int
    recipient: bytes
    settle_s: int = 30
    rpc_s: int = RPC_S
    facilitator_s: int = 20
    retry_after_s: int = 5
    max_fee_wei: int | None = None
    types: tuple[str, ...] = (AUTHORIZATION,)
    """The types of credential that are taken, the preferred one first."""
    takes_contracts: bool = False
    """Whether contract wallets can pay: a node is asked for their word then (ERC-1271)."""
    x402: bool = False
    """Whether x402 buyers may pay too."""
    x402_permit2: bool = False
    """Whether they may pay a price by a permit of Permit2."""
    submitter: bytes | None = None
    """The account of our own gas key: the only one that can use a permit of Permit2."""
    shares: tuple[Share, ...] = ()
    domain: Eip712Domain = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        domain = Eip712Domain(self.name, self.version, self.chain_id, self.token)
        object.__setattr__(self, "domain", domain)


@dataclass(frozen=True, slots=True)
class PaymentKey:
    """Names one authorization for ever: a token keeps one flag per payer and nonce (EIP-3009)."""

    chain_id: int
    token: bytes
    sender: bytes
    nonce: bytes

    def __str__(self) -> str:
        """Return the proof id, in lower case throughout: the same proof never has two names."""
        return (
            f"eip3009:{self.chain_id}:0x{self.token.hex()}:0x{self.sender.hex()}"
            f":0x{self.nonce.hex()}"
        )

    @classmethod
    def parse(cls, proof_id: str) -> Self:
        """Return the key that `proof_id` names; raises ValueError for any other text."""
        match = _PROOF_ID.fullmatch(proof_id)
        if match is None:
            raise ValueError("not the id of an EIP-3009 authorization")
        return cls(
            chain_id=int(match[1]),
            token=parse_address(match[2]),
            sender=parse_address(match[3]),
            nonce=bytes.fromhex(match[4]),
        )

    @property
    def account(self) -> str:
        """The purse that pays, as one name for all its payments."""
        return purse(self.chain_id, self.token, self.sender)


@dataclass(frozen=True, slots=True)
class TxKey:
    """Names one transaction for ever, whether its buyer or we have sent it."""

    chain_id: int
    tx_hash: str

    def __str__(self) -> str:
        """Return the proof id, in lower case: the same transaction never has two names."""
        return f"evmtx:{self.chain_id}:{self.tx_hash.lower()}"

    @classmethod
    def parse(cls, proof_id: str) -> Self | None:
        """Return the key that `proof_id` names; None for a proof of another type."""
        match = _TX_ID.fullmatch(proof_id)
        return None if match is None else cls(int(match[1]), match[2])


@dataclass(frozen=True, slots=True)
class PermitKey:
    """Names one permit for ever: Permit2 keeps one flag per owner and nonce."""

    chain_id: int
    owner: bytes
    nonce: int

    def __str__(self) -> str:
        """Return the proof id; the nonce is a number there, and has no leading zeros."""
        return f"permit2:{self.chain_id}:0x{self.owner.hex()}:{self.nonce}"

    @classmethod
    def parse(cls, proof_id: str) -> Self | None:
        """Return the key that `proof_id` names; None for a proof of another type."""
        match = _PERMIT_ID.fullmatch(proof_id)
        if match is None:
            return None
        return cls(int(match[1]), parse_address(match[2]), int(match[3]))


def purse(chain_id: int, token: bytes, holder: bytes) -> str:
    """Return the name of what `holder` has of a token, in lower case (after CAIP-10, CAIP-19)."""
    return f"eip155:{chain_id}/erc20:0x{token.hex()}/0x{holder.hex()}"


def holder(purse: str) -> bytes:
    """Return whose purse it is; raises ValueError for what is none."""
    return parse_address(purse.rpartition("/")[2])


def parse_source(source: str | None) -> tuple[int, bytes] | None:
    """Return chain and address of a payer's DID (did:pkh), or None for anything else."""
    match = _SOURCE.fullmatch(source or "")
    return None if match is None else (int(match[1]), parse_address(match[2]))


@dataclass(frozen=True, slots=True)
class Pulled:
    """A signed transaction that we broadcast. It is kept in memory alone, and only till then."""

    transaction: SignedTransaction = field(repr=False)
    transfer: Transfer
    issued_s: int
    """When the challenge was made that it pays."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A transaction that the buyer says it has sent."""

    tx_hash: str
    transfer: Transfer
    issued_s: int


@dataclass(frozen=True, slots=True)
class Permitted:
    """A checked permit of Permit2, and the movements that using it has to show."""

    key: PermitKey
    call: bytes = field(repr=False)
    deadline: int
    transfers: tuple[Transfer, ...]

    @property
    def total(self) -> int:
        """What leaves the payer's purse."""
        return sum(transfer.value for transfer in self.transfers)


@dataclass(frozen=True, slots=True)
class Payment:
    """A checked signature with the terms that it was checked against."""

    key: PaymentKey
    authorization: Authorization
    is_of_contract: bool = False
    """The signature is no key's, or another's: only the contract at the payer can know it."""

    @property
    def call(self) -> bytes:
        """The call of the token that settles it."""
        if self.is_of_contract:
            return abi.transfer_with_any_signature(self.authorization)
        return abi.transfer_with_authorization(self.authorization)

    @property
    def gas_max(self) -> int:
        """What settling may burn: the payer's own code runs in it, at our cost."""
        return CONTRACT_GAS if self.is_of_contract else CALL_GAS

    @property
    def transfer(self) -> Transfer:
        """The movement of money that settling has to show."""
        signed = self.authorization
        return Transfer(self.key.token, signed.sender, signed.recipient, signed.value)


@dataclass(frozen=True, slots=True)
class Attempt:
    """Where the money is after one attempt, with the transaction that says so."""

    state: Settlement
    reference: str = ""
    detail: str = ""
    is_unused: bool = False
    """True if the chain was asked and the authorization is open: unused and unexpired."""
    is_untried: bool = False
    """REFUSED, for nothing was sent: the authorization is as good as before."""
    refusal: Problem | None = None
    """REFUSED: what to tell the buyer, where somebody has said why."""
    moved_minor: int | None = None
    """SETTLED: what has moved, where that may be less than was presented."""


class Settler(Protocol):
    """Moves the money of a verified payment: with a key of our own, or through a facilitator."""

    async def ready(self, now_s: int) -> None:
        """Return if payments can be taken now; raise `RailUnavailable`."""
        ...

    async def check(self, payment: Payment, now_s: int) -> None:
        """Return if settling would be possible now; raise a Problem or `RailUnavailable`."""
        ...

    async def settle(self, payment: Payment, now_s: int) -> Attempt:
        """Try to settle; what cannot be known is `Settlement.UNKNOWN`, never an exception."""
        ...

    @property
    def refunds_from(self) -> bytes | None:
        """Whose money it can send back, by address; None: nobody's."""
        ...

    async def sent_for(self, proof_id: str) -> tuple[str, ...]:
        """Return the transactions that may have moved the payment, as far as we know of any."""
        ...

    async def refund(self, proof_id: str, payer: bytes, amount_minor: int, now_s: int) -> Attempt:
        """Send money back, once for each `proof_id` however often it is asked to."""
        ...

    async def maintain(self, now_s: int) -> int:
        """Take up what an earlier process left behind; return how much of it is still open."""
        ...

    @property
    def withheld_for(self) -> str:
        """Why no payment should be asked for, for instance for want of gas; else empty."""
        ...

    async def close(self) -> None:
        """Release connections and tasks."""
        ...


def split(settings: EvmSettings, amount_minor: int) -> tuple[int, tuple[tuple[bytes, int], ...]]:
    """Return what the recipient gets of an amount, and the shares that are not zero."""
    shares = tuple(
        (share.recipient, part) for share in settings.shares if (part := share.of(amount_minor))
    )
    return amount_minor - sum(part for _, part in shares), shares


def build_offer(
    rail: str, settings: EvmSettings, price: Amount, recipient: str | None, description: str | None
) -> Offer:
    """Return the offer of one call at `price` (evm charge draft, section "Request Schema").

    Addresses are in EIP-55 form: some buyers and facilitators refuse any other.
    """
    if price.asset.decimals != settings.decimals:
        raise ValueError(
            f"the price has {price.asset.decimals} decimals, the token {settings.decimals}"
        )
    payee = settings.recipient if recipient is None else parse_address(recipient)
    details: dict[str, Any] = {
        "chainId": settings.chain_id,
        "credentialTypes": list(settings.types),
        "decimals": settings.decimals,
    }
    if PERMIT2 in settings.types and settings.submitter is not None:
        details["permit2Address"] = checksum(permit2.ADDRESS)
        # Not in the draft, which leaves out for whom to sign; SDKs have it under this name.
        details["permit2Spender"] = checksum(settings.submitter)
    _, shares = split(settings, price.minor)
    if shares:
        details["splits"] = [
            {"amount": str(part), "recipient": checksum(to)} for to, part in shares
        ]
    request: Mapping[str, Any] = {
        "amount": str(price.minor),
        "currency": checksum(settings.token),
        "recipient": checksum(payee),
        "methodDetails": details,
    }
    return Offer(
        rail=rail,
        method=METHOD,
        intent=INTENT,
        amount=price,
        request=request,
        request_encoded=jcs.encode_object(request),
        description=description,
    )


@dataclass(frozen=True, slots=True)
class Terms:
    """What an evm charge request says, as bytes and integers."""

    chain_id: int
    token: bytes
    recipient: bytes
    amount_minor: int
    types: tuple[str, ...] = (AUTHORIZATION,)

    @classmethod
    def read(cls, request: Mapping[str, Any]) -> Self:
        """Return the terms of a request object; raises ValueError if it is not one."""
        details = request.get("methodDetails")
        chain_id = details.get("chainId") if isinstance(details, Mapping) else None
        amount = request.get("amount")
        currency, recipient = request.get("currency"), request.get("recipient")
        if not isinstance(chain_id, int) or isinstance(chain_id, bool):
            raise ValueError("the request names no chain")  # noqa: TRY004 - one error for all
        if not isinstance(amount, str) or not re.fullmatch(r"[0-9]{1,78}", amount):
            raise ValueError("the request has no amount in base units")
        if not isinstance(currency, str) or not isinstance(recipient, str):
            raise ValueError("the request lacks currency or recipient")  # noqa: TRY004
        types = details.get("credentialTypes") if isinstance(details, Mapping) else None
        return cls(
            chain_id,
            parse_address(currency),
            parse_address(recipient),
            int(amount),
            tuple(map(str, types)) if isinstance(types, list) else (AUTHORIZATION,),
        )


NonceForm = Literal["packed", "json"]
