"""What a facilitator says it can do: its answer to `/supported`, as typed values."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from mpp_gateway.crypto.addresses import checksum, parse_address
from mpp_gateway.protocol.x402_permits import PERMIT2, UPTO

ENTRIES_MAX = 2_000
EIP3009 = "eip3009"
SPONSORINGS = frozenset({"eip2612GasSponsoring", "erc20ApprovalGasSponsoring"})
"""Extensions that only make sense to whoever settles through Permit2."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to pay that a facilitator settles: a scheme on a network."""

    version: int
    scheme: str
    network: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Supported:
    """What `/supported` lists. An empty list of kinds says nothing."""

    kinds: tuple[Kind, ...] = ()
    extensions: frozenset[str] = frozenset()
    signers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Addresses that send its transactions, by network or by a pattern such as `eip155:*`."""

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """Return what can be read of the answer; entries of another form are left out."""
        kinds = (_kind(entry) for entry in _list(answer.get("kinds")))
        signers = answer.get("signers")
        return cls(
            tuple(kind for kind in kinds if kind is not None),
            frozenset(e for e in _list(answer.get("extensions")) if isinstance(e, str)),
            {
                network: tuple(a for a in _list(addresses) if isinstance(a, str))
                for network, addresses in (signers.items() if isinstance(signers, Mapping) else ())
            },
        )

    def offers(
        self, version: int, scheme: str, network: str, transfer_method: str | None = None
    ) -> bool | None:
        """Tell whether payments of this kind are settled; None where it does not say.

        Permit2 shows in the kind's own `assetTransferMethod`, or in an extension that needs it.
        """
        if not self.kinds:
            return None
        kind = self._find(version, scheme, network)
        if kind is None:
            return False
        named = kind.extra.get("assetTransferMethod")
        if transfer_method is None or named == transfer_method:
            return True
        if isinstance(named, str):
            return False
        if transfer_method == EIP3009:
            return True
        return True if self.extensions & SPONSORINGS else None

    def settles_permits(self, scheme: str, network: str) -> bool:
        """Tell whether it says that it settles permits of Permit2: `upto` needs its address.

        Of `exact` the official facilitators list one kind for all transfer methods. So the kind is
        enough, unless it names another method.
        """
        if scheme == UPTO:
            return self.facilitator_address(scheme, network) is not None
        is_listed = self._find(2, scheme, network) is not None
        return is_listed and self.offers(2, scheme, network, PERMIT2) is not False

    def facilitator_address(self, scheme: str, network: str) -> str | None:
        """Return who alone may settle an `upto` payment, in EIP-55 form; None if it is not said."""
        kind = self._find(2, scheme, network)
        named = None if kind is None else kind.extra.get("facilitatorAddress")
        try:
            return checksum(parse_address(named)) if isinstance(named, str) else None
        except ValueError:
            return None

    def settlers(self, scheme: str, network: str) -> frozenset[bytes]:
        """Return from which accounts it settles an `upto` payment: the one it names, and others
        that it says it sends from, of which it may name another the next time."""
        named = self.facilitator_address(scheme, network)
        if named is None:
            return frozenset()
        networks = (network, network.partition(":")[0] + ":*")
        found = {parse_address(named)}
        for text in (text for key in networks for text in self.signers.get(key, ())):
            with contextlib.suppress(ValueError):
                found.add(parse_address(text))
        return frozenset(found)

    def _find(self, version: int, scheme: str, network: str) -> Kind | None:
        networks = (network, network.partition(":")[0] + ":*")
        for kind in self.kinds:
            if (kind.version, kind.scheme) == (version, scheme) and kind.network in networks:
                return kind
        return None


def _list(value: Any) -> list[Any]:
    return value[:ENTRIES_MAX] if isinstance(value, list) else []


def _kind(entry: Any) -> Kind | None:
    if not isinstance(entry, Mapping):
        return None
    version, scheme, network = (entry.get(k) for k in ("x402Version", "scheme", "network"))
    if type(version) is not int or not isinstance(scheme, str) or not isinstance(network, str):
        return None
    extra = entry.get("extra")
    return Kind(version, scheme, network, extra if isinstance(extra, Mapping) else {})
