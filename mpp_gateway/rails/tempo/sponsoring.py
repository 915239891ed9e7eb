"""Paying the fee of a buyer's transaction: what may be paid for, and how much at the same time.

A fee is spent when a transaction fails too, so a stranger could spend it: nothing is signed that
does not make exactly the payment, and what is on its way is bounded (Tempo charge draft, "Fee
Sponsorship"; the limits are those of the SDKs).
"""

from mpp_gateway.protocol.problems import VerificationFailed
from mpp_gateway.protocol.tempo_transaction import Unsigned
from mpp_gateway.rails.tempo.request import Sponsor

GAS_MAX = 2_000_000
GWEI = 10**9
MAX_FEE_MAX = 100 * GWEI
TIP_MAX = 50 * GWEI
WINDOW_MAX_S = 900
SHUNNED_S = 86_400
FAILED_MAX = 10_000
"""How many senders are remembered; each has had a purse with a price in it."""
SENT_MAX = 10_000
"""How many sponsored transactions are remembered."""
FEE_UNIT = 10**12
"""Fees are counted in 10^-18 of a dollar, fee tokens in 10^-6."""


def fee_minor(unsigned: Unsigned) -> int:
    """Return the most that a transaction's fee can come to, in minor units of a fee token."""
    return -(-unsigned.max_fee * unsigned.gas_limit // FEE_UNIT)


def check(unsigned: Unsigned, sponsor: Sponsor | None, now_s: int) -> None:
    """Return if the fee of such a transaction may be paid for.

    Errors: `VerificationFailed` for one that costs, or lives for, more than may be.
    """
    if sponsor is None:
        raise VerificationFailed("The transaction leaves the fee to somebody else; nobody pays it.")
    if unsigned.gas_limit > GAS_MAX:
        raise VerificationFailed("The gas limit exceeds what is sponsored.")
    if unsigned.max_fee > MAX_FEE_MAX or unsigned.max_priority_fee > TIP_MAX:
        raise VerificationFailed("The price of gas exceeds what is sponsored.")
    if fee_minor(unsigned) > sponsor.fee_max_minor:
        raise VerificationFailed("The fee exceeds what is sponsored for one transaction.")
    if unsigned.valid_before is None or unsigned.valid_before > now_s + WINDOW_MAX_S:
        # For as long the fee stays set aside for it.
        raise VerificationFailed("The transaction is valid for longer than what is sponsored.")


class Sponsoring:
    """The fees that are on their way, of one process."""

    def __init__(self, sponsor: Sponsor) -> None:
        self.sponsor = sponsor
        self._sent: dict[str, tuple[int, int]] = {}
        """Kept past their end: that one has failed may be found out late."""
        self._failed: dict[bytes, int] = {}
        self._is_low = False

    def in_flight_minor(self, now_s: int) -> int:
        """Return what transactions may still cost that can be in a block yet."""
        return sum(minor for minor, until_s in self._sent.values() if until_s > now_s)

    def has_room(self, minor: int, now_s: int) -> bool:
        """Tell whether one more fee of that size may be on its way."""
        return self.in_flight_minor(now_s) + minor <= self.sponsor.in_flight_max_minor

    def set_aside(self, tx_hash: str, minor: int, until_s: int, now_s: int) -> bool:
        """Set a fee aside till the transaction is in a block or can be in none; False: no room."""
        if not self.has_room(minor, now_s):
            return False
        self._sent[tx_hash] = (minor, until_s)
        if len(self._sent) > SENT_MAX:
            del self._sent[next(iter(self._sent))]
        return True

    def let_go(self, tx_hash: str) -> bool:
        """Set nothing aside for a transaction any more: its fee is paid, or will never be.

        Returns whether anything was.
        """
        return self._sent.pop(tx_hash, None) is not None

    def failed(self, sender: bytes, now_s: int) -> None:
        """Note that a sender's transaction is in a block, has cost its fee, and has not paid.

        What makes it fail is in the sender's hands: its gas, or money that it moves elsewhere.
        """
        self._failed.pop(sender, None)
        self._failed[sender] = now_s
        if len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    def has_failed(self, sender: bytes, now_s: int) -> bool:
        """Tell whether a sender has cost a fee for nothing in the last day."""
        return now_s < self._failed.get(sender, -SHUNNED_S) + SHUNNED_S

    def look(self, balance_minor: int) -> None:
        """Note what the account has for fees."""
        self._is_low = balance_minor < self.sponsor.fee_max_minor

    @property
    def withheld_for(self) -> str:
        """Why nothing can be sponsored now; empty while it can."""
        return "the account that pays the fees has too little" if self._is_low else ""
