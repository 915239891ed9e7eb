"""What the rail asks for, and what it is given: offers, proofs and their canonical names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.crypto.secp256k1 import address_of
from mpp_gateway.protocol import attribution, jcs
from mpp_gateway.protocol.money import Amount
from mpp_gateway.protocol.tempo_transaction import TempoTransaction
from mpp_gateway.rails.base import Offer
from mpp_gateway.rails.tempo.tip20 import DECIMALS, Movement

METHOD = "tempo"
INTENT = "charge"
PULL, PUSH = "pull", "push"
RPC_S = 10
PERCENT_SHARES = 10_000
"""Shares are hundredths of a percent."""

_PROOF_ID = re.compile(r"tempo:([1-9][0-9]*):(0x[0-9a-f]{64}|zero):([A-Za-z0-9_-]+)")
_SOURCE = re.compile(r"did:pkh:eip155:([1-9][0-9]{0,15}):(0x[0-9a-fA-F]{40})")
_ZERO = "zero"


@dataclass(frozen=True, slots=True)
class Share:
    """What somebody else gets of every price, in hundredths of a percent."""

    recipient: bytes
    of_ten_thousand: int

    def of(self, amount_minor: int) -> int:
        """Return the share of an amount, rounded down: the rest is the recipient's."""
        return amount_minor * self.of_ten_thousand // PERCENT_SHARES


@dataclass(frozen=True, slots=True)
class Sponsor:
    """Who pays the fees of buyers' transactions, and how much at most, in minor units."""

    private_key: bytes = field(repr=False)
    fee_token: bytes
    fee_max_minor: int
    """Of one transaction."""
    in_flight_max_minor: int
    """Of all that are sent and in no block yet."""

    @property
    def address(self) -> bytes:
        """The account that the fees come from."""
        return address_of(self.private_key)


@dataclass(frozen=True, slots=True)
class TempoSettings:
    """One token on one chain, who is paid, and how it may be paid."""

    chain_id: int
    token: bytes
    recipient: bytes
    modes: tuple[str, ...] = (PULL, PUSH)
    shares: tuple[Share, ...] = ()
    settle_s: int = 30
    """How long one attempt to settle waits for its block."""
    rpc_s: int = RPC_S
    retry_after_s: int = 5
    sponsor: Sponsor | None = None
    """None: buyers pay the fees of their transactions."""


@dataclass(frozen=True, slots=True)
class ProofId:
    """Names a payment for ever: a transaction, sent by us or by its buyer, for one challenge.

    The challenge is in it because anybody can name a transaction that he sees on the chain. By its
    hash alone, whoever named it first would keep its buyer from showing it.
    """

    chain_id: int
    tx_hash: str | None
    """None for a proof that pays nothing."""
    challenge_id: str

    def __str__(self) -> str:
        """Return the id; hashes are in lower case: one transaction never has two names."""
        what = _ZERO if self.tx_hash is None else self.tx_hash.lower()
        return f"tempo:{self.chain_id}:{what}:{self.challenge_id}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `str` has made; raises ValueError for any other text."""
        match = _PROOF_ID.fullmatch(text)
        if match is None:
            raise ValueError("not the id of a payment on Tempo")
        return cls(int(match[1]), None if match[2] == _ZERO else match[2], match[3])


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
class Terms:
    """What paying one challenge takes: `main` carries the memo, `shares` go beside it.

    Without a realm the memo is held against the challenge alone, whose id no two realms issue.
    """

    challenge_id: str
    realm: str | None
    main: tuple[bytes, int]
    shares: tuple[tuple[bytes, int], ...]

    def is_paid_by(self, moved: tuple[Movement, ...], sender: bytes) -> bool:
        """Tell whether `sender` has made this payment, and paid no more to whom it goes.

        More would be for another challenge, with the same shares: they would count twice. So they
        would beside a payment to somebody else, who shares with the same. What else went elsewhere,
        such as fees, does not matter, and neither does the order.
        """
        payees = {self.main[0], *(recipient for recipient, _ in self.shares)}
        own = tuple(m for m in moved if m.sender == sender and m.recipient in payees)
        others = (m for m in moved if m.sender == sender and m.recipient not in payees)
        if self.shares and any(map(self._pays_for_another, others)):
            return False
        return self.is_exactly(own)

    def is_exactly(self, moved: tuple[Movement, ...]) -> bool:
        """Tell whether the payment is all that was moved, each movement counted once."""
        left = list(moved)
        main = next((movement for movement in left if self.is_main(movement)), None)
        if main is None or (main.recipient, main.amount_minor) != self.main:
            return False
        left.remove(main)
        if any(map(self._pays_for_another, left)):
            # Who gets a share may sell for itself: shown there, it would pay for another call.
            return False
        rest = sorted((movement.recipient, movement.amount_minor) for movement in left)
        return rest == sorted(self.shares)

    def is_main(self, moved: Movement) -> bool:
        """Tell whether a movement to the recipient says that it is for this challenge."""
        # Without the memo anybody's transfer of the same size would pay for anybody's call.
        return (
            moved.recipient == self.main[0]
            and moved.memo is not None
            and attribution.is_for_challenge(moved.memo, self.challenge_id)
            and (self.realm is None or attribution.is_for_realm(moved.memo, self.realm))
        )

    def _pays_for_another(self, moved: Movement) -> bool:
        # Some buyers put the memo of this challenge on its shares too: that pays nothing elsewhere.
        memo = moved.memo or b""
        is_ours = attribution.is_for_challenge(memo, self.challenge_id)
        return attribution.is_one(memo) and not is_ours


@dataclass(frozen=True, slots=True)
class Pull:
    """A signed transaction that we broadcast. It is kept in memory alone, and only till then."""

    transaction: TempoTransaction = field(repr=False)
    terms: Terms


@dataclass(frozen=True, slots=True)
class Push:
    """A transaction that the buyer says it has sent."""

    tx_hash: str
    sender: bytes
    terms: Terms


@dataclass(frozen=True, slots=True)
class ZeroProof:
    """A signature that was checked when it was read; nothing moves."""


def split(settings: TempoSettings, amount_minor: int) -> tuple[int, tuple[tuple[bytes, int], ...]]:
    """Return what the recipient gets of an amount, and the shares that are not zero."""
    shares = tuple(
        (share.recipient, part) for share in settings.shares if (part := share.of(amount_minor))
    )
    return amount_minor - sum(part for _, part in shares), shares


def build_offer(
    rail: str,
    settings: TempoSettings,
    price: Amount,
    recipient: str | None,
    description: str | None,
) -> Offer:
    """Return the offer of one call at `price` (tempo charge draft, section "Request Schema")."""
    if price.asset.decimals != DECIMALS:
        raise ValueError(f"the price has {price.asset.decimals} decimals, the token {DECIMALS}")
    payee = settings.recipient if recipient is None else parse_address(recipient)
    details: dict[str, Any] = {"chainId": settings.chain_id}
    if price.minor and settings.sponsor is not None:
        details["feePayer"] = True
    if price.minor and set(settings.modes) != {PULL, PUSH}:
        details["supportedModes"] = list(settings.modes)
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


def chain_and_token(request: Mapping[str, Any]) -> tuple[int, bytes] | None:
    """Return what a request is paid with; None where it does not say."""
    details, currency = request.get("methodDetails"), request.get("currency")
    chain_id = details.get("chainId") if isinstance(details, Mapping) else None
    if not isinstance(chain_id, int) or not isinstance(currency, str):
        return None
    try:
        return chain_id, parse_address(currency)
    except ValueError:
        return None
