"""Receipts: `Payment-Receipt`, what the seller says about a payment that settled.

Wire form: MPP core draft, section "Payment-Receipt". It goes on 2xx answers and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mpp_gateway.protocol import jcs
from mpp_gateway.protocol.problems import ParseError
from mpp_gateway.protocol.timestamps import parse_rfc3339

SUCCESS = "success"
_MEMBERS = ("method", "reference", "status", "timestamp")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A settled payment: which method, its reference there, and when (RFC 3339)."""

    method: str
    reference: str
    status: str
    timestamp: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Members that a method adds (`challengeId`, `chainId`, …); they never replace the four."""

    def format(self) -> str:
        """Return the field value; raises ValueError for what JCS refuses."""
        return jcs.encode_object(
            {
                **self.extra,
                "method": self.method,
                "reference": self.reference,
                "status": self.status,
                "timestamp": self.timestamp,
            }
        )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the receipt of a field value.

        Raises ParseError unless the four members are there, the status is `success`, and the
        timestamp is RFC 3339. Other members end up in `extra`.
        """
        members = jcs.decode_object(text.strip(" \t"))
        values: dict[str, str] = {}
        for name in _MEMBERS:
            value = members.pop(name, None)
            if not isinstance(value, str) or not value:
                raise ParseError(f"{name} is missing or not text")
            values[name] = value
        if values["status"] != SUCCESS:
            raise ParseError("a receipt says success or is none")
        parse_rfc3339(values["timestamp"])
        return cls(**values, extra=members)
