"""What Stripe says of currencies: their minor units, and the least that can be charged.

Source: docs.stripe.com/currencies, "Zero-decimal currencies" and "Minimum and maximum charge
amounts". A currency that is not listed has two decimals and no minimum that we know of.
"""

from collections.abc import Mapping
from types import MappingProxyType

AMOUNT_MINOR_MAX = 99_999_999
"""Stripe takes amounts of up to eight digits."""

ZERO_DECIMAL = frozenset(
    {
        "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga",
        "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf",
    }
)  # fmt: skip
THREE_DECIMAL = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
WHOLE_ONLY = frozenset({"isk", "ugx"})
"""Written with two decimals, and charged in whole units only."""

LEAST_MINOR: Mapping[str, int] = MappingProxyType(
    {
        "aed": 200, "ars": 50, "aud": 50, "bgn": 100, "brl": 50, "cad": 50, "chf": 50, "cop": 50,
        "czk": 1500, "dkk": 250, "eur": 50, "gbp": 30, "hkd": 400, "huf": 17500, "idr": 50,
        "ils": 50, "inr": 50, "jpy": 50, "krw": 50, "mxn": 1000, "myr": 200, "nok": 300, "nzd": 50,
        "php": 50, "pln": 200, "ron": 200, "rub": 50, "sek": 300, "sgd": 50, "thb": 1000,
        "usd": 50, "zar": 50,
    }
)  # fmt: skip


def decimals_of(currency: str) -> int:
    """Return how many decimals Stripe's amounts in `currency` have."""
    if currency in THREE_DECIMAL:
        return 3
    return 0 if currency in ZERO_DECIMAL else 2
