"""The chains of Tempo that buyers are told of by no seller: their nodes, and the dollars on them.

As the SDKs have them. What is not in here is paid for only with a node and a limit of the buyer's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mpp_gateway.crypto.addresses import parse_address

PATH_USD = parse_address("0x20c0000000000000000000000000000000000000")
"""On every chain of Tempo, and what fees can always be paid in."""
USDC_E = parse_address("0x20c000000000000000000000b9537d11c60e8b50")


@dataclass(frozen=True, slots=True)
class TempoNetwork:
    """A chain, with a node that anybody may ask."""

    name: str
    rpc_url: str
    dollars: frozenset[bytes]
    """Tokens of which one is a dollar."""


TEMPO_NETWORKS: Mapping[int, TempoNetwork] = {
    4217: TempoNetwork("Tempo", "https://rpc.tempo.xyz", frozenset({PATH_USD, USDC_E})),
    42431: TempoNetwork("Moderato", "https://rpc.moderato.tempo.xyz", frozenset({PATH_USD})),
}
"""By chain id."""
