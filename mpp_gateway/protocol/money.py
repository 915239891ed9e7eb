"""Money as integers of minor units. Nothing here rounds unless its name says how."""

import re
from dataclasses import dataclass, field

DECIMALS_MAX = 36
CENTS = 2
"""Decimals that a price shows at least, where its asset has them."""
_DIGITS_MAX = 96
_PLAIN_DECIMAL = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Asset:
    """What is paid with: a code (`usd`, `0x8335…`) and how many decimals one unit of it has."""

    code: str
    decimals: int
    symbol: str = field(default="", compare=False)
    """What people call it (`USDC`); of two names for one asset neither makes another asset."""

    @property
    def name(self) -> str:
        """What to call it: its symbol, or else its code."""
        return self.symbol or self.code

    def __post_init__(self) -> None:
        if not self.code:
            raise ValueError("an asset needs a code")
        _check_decimals(self.decimals)


@dataclass(frozen=True, slots=True, order=False)
class Amount:
    """A whole number of minor units of one asset, never negative.

    Amounts have no order and no sum of their own: comparing cents with micro-dollars would be
    silent, so callers compare `minor` where they have already compared `asset`.
    """

    minor: int
    asset: Asset

    def __post_init__(self) -> None:
        _check_minor(self.minor)

    def __str__(self) -> str:
        return f"{format_minor(self.minor, self.asset.decimals)} {self.asset.code}"


def parse_minor(text: str, decimals: int) -> int:
    """Return `text`, a plain decimal such as `0.05`, in minor units, exactly.

    Raises ValueError for signs, exponents, separators, spaces, digits that are not ASCII, leading
    zeros, and for any amount that needs more than `decimals` decimals. It never rounds.
    """
    _check_decimals(decimals)
    match = _PLAIN_DECIMAL.fullmatch(text) if len(text) <= _DIGITS_MAX else None
    if match is None:
        raise ValueError("not a plain decimal amount, for example 0.05")
    whole, fraction = match[1], match[2] or ""
    # Dropping a non-zero digit would charge less than the seller wrote.
    if fraction[decimals:].strip("0"):
        raise ValueError(f"more than {decimals} decimals")
    return int(whole + fraction[:decimals].ljust(decimals, "0"))


def convert_minor(text: str, rate: str, decimals: int) -> int:
    """Return what `text` units come to at `rate`, in minor units, rounded up for the seller.

    Both are plain decimals; `rate` is what one unit costs. Raises ValueError as `parse_minor`.
    """
    _check_decimals(decimals)
    product = parse_minor(text, DECIMALS_MAX) * parse_minor(rate, DECIMALS_MAX)
    # Rounded down, a price below one minor unit would be nothing at all.
    return div_ceil(product, 10 ** (2 * DECIMALS_MAX - decimals))


def format_minor(minor: int, decimals: int) -> str:
    """Return minor units as a plain decimal with exactly `decimals` decimals."""
    _check_decimals(decimals)
    _check_minor(minor)
    if decimals == 0:
        return str(minor)
    digits = str(minor).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}"


def format_short(minor: int, decimals: int) -> str:
    """Return minor units as a plain decimal for people: no needless zeros, but cents stay."""
    whole, point, fraction = format_minor(minor, decimals).partition(".")
    return whole + point + fraction.rstrip("0").ljust(min(CENTS, decimals), "0")


def div_ceil(numerator: int, denominator: int) -> int:
    """Return `numerator / denominator` rounded up, that is, in the seller's favour.

    Raises ValueError for a negative numerator or a denominator that is not positive.
    """
    if numerator < 0 or denominator <= 0:
        raise ValueError("div_ceil takes a numerator >= 0 and a denominator > 0")
    return -(-numerator // denominator)


def _check_minor(minor: int) -> None:
    # `True` is an int to Python and would be one cent.
    if not isinstance(minor, int) or isinstance(minor, bool):
        raise TypeError("minor units are an int")
    if minor < 0:
        raise ValueError("minor units are never negative")


def _check_decimals(decimals: int) -> None:
    if not isinstance(decimals, int) or isinstance(decimals, bool):
        raise TypeError("decimals are an int")
    if not 0 <= decimals <= DECIMALS_MAX:
        raise ValueError(f"decimals are between 0 and {DECIMALS_MAX}")
