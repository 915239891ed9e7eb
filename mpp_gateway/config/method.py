"""What the settings of all payment methods have in common."""

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from mpp_gateway.config.values import Rate, Strict, Unit, wrong

HASH_HAS_MOVED = "a `hash`, whose money has moved already"
"""Of payments that the buyer has made, and shows."""


class MethodSettings(Strict):
    """One way to be paid; what most kinds answer alike is answered here."""

    takes_zero: ClassVar[bool] = False
    """Whether a price of zero can be met: by a proof that pays nothing."""
    refunds: ClassVar[bool] = False
    """Whether a route that says nothing in `on_failure` gives back what it could not deliver."""

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

    @property
    def told_apart_by(self) -> tuple[str, ...]:
        """What a buyer's answer says of the method it pays with, for people to read.

        Two methods of one route that have all of it in common would read each other's payments.
        """
        return ()

    def settles_first(self, minor: int) -> bool:  # noqa: ARG002
        """Tell whether money moves before the upstream is asked, whatever the route says."""
        return False

    @property
    def sells_by_use(self) -> bool:
        """Whether less can be charged than was asked for, by what the upstream says was used."""
        return False

    def sooner(self, minor: int, waits_s: float) -> str:  # noqa: ARG002
        """Return which payments may move before that, for people to read; nothing if none do.

        `waits_s` is how long the route may wait for its upstream.
        """
        return ""

    def withheld(self, minor: int) -> str:  # noqa: ARG002
        """Return why a price cannot be offered; nothing where any amount can be paid."""
        return ""

    def flaw(self, minor: int) -> str:  # noqa: ARG002
        """Return what a price must be; nothing where it may be any amount."""
        return ""
