"""`X-Max-Price`: the most that a client pays for a call, said before it is asked.

    X-Max-Price = amount [ 1*SP unit ]     ; one field, one value
    amount      = 1*DIGIT [ "." 1*DIGIT ]  ; no sign, no exponent, no needless zero in front
    unit        = ALPHA *31( ALPHA / DIGIT / "-" / "_" )   ; any case: usd

With a unit it is a price in that currency. Without, it counts whole units of whatever an offer is
paid in: two tokens, two dollars, two of each.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from mpp_gateway.protocol.money import DECIMALS_MAX, convert_minor, parse_minor
from mpp_gateway.protocol.problems import BadRequest

FIELD = "X-Max-Price"
_VALUE = re.compile(r"([0-9.]{1,80})(?: +([A-Za-z][A-Za-z0-9_-]{0,31}))?")


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that a call may cost. `unit` in small letters, or None: whole units of anything."""

    amount: str
    unit: str | None = None

    @classmethod
    def of(cls, values: Sequence[str]) -> Self | None:
        """Return what a request says, or None; raises BadRequest for what cannot be read.

        To guess at it would have somebody pay more than it has said.
        """
        if not values:
            return None
        match = _VALUE.fullmatch(values[0].strip(" \t"))
        if len(values) > 1 or match is None:
            raise BadRequest(f"{FIELD} is one amount, and its unit: `0.05 usd`, or `0.05`.")
        try:
            parse_minor(match[1], DECIMALS_MAX)
        except ValueError as error:
            raise BadRequest(f"{FIELD} is a plain decimal amount, such as `0.05 usd`.") from error
        return cls(match[1], match[2].lower() if match[2] else None)

    def covers(
        self, minor: int, decimals: int, at_par: Sequence[str], rates: Mapping[str, str]
    ) -> bool:
        """Tell whether a price of `minor` in an asset of that many decimals is not above it.

        `at_par` are the units that one whole unit of the asset is worth, `rates` what others cost
        in it. A unit that is neither covers nothing: such a price cannot be compared.
        """
        unit = self.unit
        if unit is not None and unit not in at_par:
            rate = rates.get(unit)
            # Rounded as prices are: the very price of the configuration is covered.
            return rate is not None and minor <= convert_minor(self.amount, rate, decimals)
        scale: int = 10 ** (DECIMALS_MAX - decimals)
        return minor * scale <= parse_minor(self.amount, DECIMALS_MAX)

    def __str__(self) -> str:
        return self.amount if self.unit is None else f"{self.amount} {self.unit}"
