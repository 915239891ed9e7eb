"""Prices in a currency that a method does not take at par."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from mpp_gateway.config.values import Rate, Strict, Unit, wrong


class Rated(Strict):
    """The settings of a method that may be paid in other currencies than its own `units`."""

    rates: Mapping[Unit, Rate] = Field(
        default={},
        description=(
            "What one unit of another currency costs in what this method is paid with:"
            ' `{eur: "1.08"}`. Prices are rounded up to its smallest unit. A rate is read when the'
            " file is; you bear its changes."
        ),
    )

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        at_par: tuple[str, ...] = getattr(self, "units", ())
        if double := sorted(set(at_par) & set(self.rates)):
            raise wrong(f"{double[0]} in `units` or in `rates`, not in both")
        return self
